package cniserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"tortie/felix/delegate"
	"tortie/felix/podnet"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
	"tortie/internal/kernel"
	"tortie/ipam"
)

// TestEveryErrorHasItsCode and says on one line what and where; what to do is in msg or in
// details. Code 1 is the plugin's own (cni-plugin: TestBadCallsGiveOneClearError); 3 is in
// TestCalicoIPAMNamedDirectly, 8 in TestNodesOwnNamespaceIsRefused, 50 and 51 in
// TestStatusPassesOnWhatAnotherPluginSays.
func TestEveryErrorHasItsCode(t *testing.T) {
	wrapped := func(err error) error { return fmt.Errorf("assign addresses: %w", err) }
	conf := func(keys string) func(w *world) cniwire.Response {
		return func(w *world) cniwire.Response { return w.call(configured("ADD", keys)) }
	}
	fails := func(err error) func(w *world) cniwire.Response {
		return func(w *world) cniwire.Response {
			w.fault = func(step string) error {
				if step == "assign" {
					return wrapped(err)
				}
				return nil
			}
			return w.call(configured("ADD", ""))
		}
	}
	for name, tc := range map[string]struct {
		call          func(w *world) cniwire.Response
		code          uint
		msg, remedied string
	}{
		"2 a key that asks for what is not done": {conf(`, "mode": "vxlan"`), cniwire.CodeUnsupportedField, `key "mode": "vxlan" is not supported by this version; remove it`, ""},
		"2 a value that does":                    {conf(`, "datastore_type": "kubernetes"`), cniwire.CodeUnsupportedField, `key "datastore_type": "kubernetes" is not supported by this version; use etcdv3`, ""},
		"4 CNI_ARGS": {func(w *world) cniwire.Response {
			r := configured("ADD", "")
			r.Args = "IP=x"
			return w.call(r)
		}, cniwire.CodeInvalidEnvironment, "CNI_ARGS: IP", ""},
		"5 the disk is full":       {fails(fmt.Errorf("sync journal: %w", syscall.ENOSPC)), cniwire.CodeIOFailure, "sync journal: no space left on device", "FELIX_JOURNALDIR"},
		"5 the disk is read-only":  {fails(fmt.Errorf("write journal: %w", syscall.EROFS)), cniwire.CodeIOFailure, "write journal: read-only file system", "FELIX_JOURNALDIR"},
		"5 the disk is broken":     {fails(fmt.Errorf("rewrite journal: %w", syscall.EIO)), cniwire.CodeIOFailure, "rewrite journal: input/output error", "FELIX_JOURNALDIR"},
		"6 no JSON":                {conf(`, "mtu"`), cniwire.CodeDecodingFailure, "network configuration: ", ""},
		"7 a misspelt key":         {conf(`, "ipamm": 1`), cniwire.CodeInvalidConfig, `key "ipamm": unknown key; did you mean ipam?`, ""},
		"7 a node of another name": {conf(`, "hostname": "node2"`), cniwire.CodeInvalidConfig, `key "hostname": "node2", but felix here runs as node "node1"`, ""},
		"7 an address of no pool":  {fails(&ipam.AddressError{Addr: netip.MustParseAddr("9.9.9.9"), Class: ipam.ErrNoPool, Reason: "it lies in no IP pool"}), cniwire.CodeInvalidConfig, "ADD: the address that is asked for, 9.9.9.9: ", ""},
		"4 no namespace":           {fails(&podnet.NetnsError{Path: "/run/netns/none", Err: &kernel.Error{Op: "open network namespace", Object: "/run/netns/none", Err: syscall.ENOENT}}), cniwire.CodeInvalidEnvironment, "ADD: CNI_NETNS /run/netns/none: no such file or directory", ""},
		"11 in use":                {fails(ipam.ErrInUse), cniwire.CodeTryAgainLater, "assign addresses", ""},
		"11 full":                  {fails(&ipam.ExhaustedError{Class: ipam.ErrPoolFull, Version: 4, Wanted: 1, Node: testNode}), cniwire.CodeTryAgainLater, "no free address", "calicoctl ipam check"},
		"11 not in time":           {fails(context.DeadlineExceeded), cniwire.CodeTryAgainLater, ": not done in time", "is the datastore slow or away?"},
		"11 no access":             {fails(datastore.ErrUnauthorized), cniwire.CodeTryAgainLater, "assign addresses", "check felix's etcd user and certificates"},
		"100 all else":             {fails(errors.New("broken")), cniwire.CodeInternal, "broken", "felix's log on this node"},
		"117 another plugin's": {
			fails(&cniwire.Error{Code: 117, Msg: "IPAM plugin some-ipam: ADD: no more", Details: "ask its owner"}),
			117, "IPAM plugin some-ipam: ADD: no more", "ask its owner",
		},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			e := tc.call(w).Error
			if e == nil || e.Code != tc.code || !strings.Contains(e.Msg, tc.msg) || strings.Contains(e.Msg, "\n") || (tc.remedied == "") != (e.Details == "") || !strings.Contains(e.Details, tc.remedied) {
				t.Errorf("error %+v; want code %d, %q and %q", e, tc.code, tc.msg, tc.remedied)
			}
			w.wantNothing()
		}))
	}
}

// silent is a store that takes questions and does not answer.
type silent struct{ datastore.Client }

func (silent) Get(ctx context.Context, _ api.Key) (datastore.Entry, error) {
	<-ctx.Done()
	return datastore.Entry{}, ctx.Err()
}

// TestStatusAsksTheStore: one that hangs keeps its connections, and every ADD would fail.
func TestStatusAsksTheStore(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("STATUS", ""))
		w.server.client = silent{w.server.client}
		began := time.Now()
		if msg := w.fails(request("STATUS", ""), cniwire.CodeNotAvailable); !strings.Contains(msg, "felix on node node1 gets no answer from its datastore: none within 2s; look whether etcd") {
			t.Errorf("message %q", msg)
		}
		if took := time.Since(began); took > askTimeout {
			t.Errorf("after %v", took)
		}
	})(t)
}

// TestFelixThatHasJustStartedBlamesNobody: nothing has failed yet.
func TestFelixThatHasJustStartedBlamesNobody(t *testing.T) {
	for name, tc := range map[string]struct {
		health error
		says   string
	}{
		"not read yet": {datastore.ErrNotRead, "felix on node node1 has just started and is still reading the datastore; try again in a moment"},
		"away":         {datastore.ErrUnavailable, "has no connection to the datastore; check that etcd runs"},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			w.server.state, w.server.health = NewState(testNode), func() error { return tc.health }
			if msg := w.fails(request("ADD", "c1"), cniwire.CodeTryAgainLater); !strings.Contains(msg, tc.says) {
				t.Errorf("message %q", msg)
			}
		}))
	}
}

// TestStatusPassesOnWhatAnotherPluginSays: 51 is its own, all else is 50.
func TestStatusPassesOnWhatAnotherPluginSays(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want cniwire.Error
	}{
		"51":           {&cniwire.Error{Code: 51, Msg: "half away", Details: "some of it"}, cniwire.Error{Code: 51, Msg: "half away", Details: "some of it"}},
		"50":           {&cniwire.Error{Code: 50, Msg: "away", Details: "all of it"}, cniwire.Error{Code: 50, Msg: "away", Details: "all of it"}},
		"another":      {&cniwire.Error{Code: 117, Msg: "no more"}, cniwire.Error{Code: 50, Msg: "no more"}},
		"none at all":  {errors.New("exit status 2"), cniwire.Error{Code: 50, Msg: "exit status 2"}},
		"it is absent": {&delegate.MissingError{Type: "x", Path: "/y"}, cniwire.Error{Code: 50, Msg: (&delegate.MissingError{Type: "x", Path: "/y"}).Error()}},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			w.fault = func(string) error { return tc.err }
			if e := w.call(delegatedRequest("STATUS", "")).Error; e == nil || *e != tc.want {
				t.Errorf("error %+v, want %+v", e, tc.want)
			}
		}))
	}
}
