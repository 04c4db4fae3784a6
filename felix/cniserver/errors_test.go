package cniserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tortie/felix/delegate"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
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

// TestGCSaysAllThatFailed, on one line: it goes on past each failure.
func TestGCSaysAllThatFailed(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(delegatedRequest("ADD", "c1"))
		w.ok(delegatedRequest("ADD", "c2"))
		w.fault = func(step string) error {
			switch step {
			case "unwire":
				return errInjected
			case "release":
				return &cniwire.Error{Code: 117, Msg: "IPAM plugin host-local: GC: no", Details: "its own"}
			}
			return nil
		}
		if err := w.journal.Close(); err != nil {
			t.Fatal(err)
		}
		e := w.call(delegatedRequest("GC", "")).Error
		if e == nil || e.Code != cniwire.CodeInternal || strings.Count(e.Msg, "write journal: ") != 2 || !strings.Contains(e.Msg, "; IPAM plugin host-local: GC: no") || strings.Contains(e.Msg, "\n") {
			t.Errorf("error %+v", e)
		}
	})(t)
}

// TestCalicoIPAMNamedDirectly: GC and STATUS as a runtime sends them to the plugin of a
// network by the name calico-ipam.
func TestCalicoIPAMNamedDirectly(t *testing.T) {
	direct := func(command, container, more string) cniwire.Request {
		r := request(command, container)
		r.Plugin = pluginIPAM
		r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico-ipam", "ipam": {"type": "calico-ipam"}` + more + `}`)
		return r
	}
	inWorld(func(t *testing.T, w *world) {
		w.ok(direct("STATUS", "", ""))
		for _, container := range []string{"kept", "gone"} {
			w.ok(direct("ADD", container, ""))
		}
		w.ok(request("ADD", "pod")) // another plugin's attachment to the network of that name
		w.ok(direct("GC", "", `, "cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth0"}]`))
		w.settled()
		var left []string
		for _, e := range w.journal.Entries() {
			left = append(left, e.ContainerID)
		}
		if slices.Sort(left); !slices.Equal(left, []string{"kept", "pod"}) || len(w.owner) != 2 {
			t.Errorf("left are %v, addresses %v", left, w.owner)
		}
		w.ok(direct("CHECK", "kept", ""))
		if msg := w.fails(direct("CHECK", "gone", ""), cniwire.CodeUnknownContainer); !strings.Contains(msg, "container gone has no interface eth0 in network net1") {
			t.Errorf("CHECK: %s", msg)
		}
		w.ok(direct("GC", "", `, "cni.dev/valid-attachments": []`))
		w.ok(request("DEL", "pod"))
		w.wantNothing()
		if msg := w.fails(direct("STATUS", "", `, "ipam": {"type": "calico-ipam", "ipv4_pools": ["gold"]}`), cniwire.CodeNotAvailable); !strings.Contains(msg, "of the IP pools that the network configuration names, gold, none is there") {
			t.Errorf("STATUS: %s", msg)
		}
	})(t)
}

// TestCalicoIPAMGivesWhatIsAskedFor under another main plugin: what the runtime says there
// is not lost (TestWhatTheRuntimeAsksFor has the order).
func TestCalicoIPAMGivesWhatIsAskedFor(t *testing.T) {
	for name, tc := range map[string]struct{ more, args, want string }{
		"capability":        {`, "runtimeConfig": {"ips": ["10.65.3.4"]}, "args": {"cni": {"ips": ["10.65.3.5"]}}`, ";IP=10.65.3.6", "10.65.3.4"},
		"args of CNI":       {`, "args": {"cni": {"ips": ["10.65.3.5"]}}`, ";IP=10.65.3.6", "10.65.3.5"},
		"CNI_ARGS":          {``, ";IP=10.65.3.6", "10.65.3.6"},
		"none":              {``, "", "10.65.0.1"},
		"the MAC is others": {`, "runtimeConfig": {"mac": "02:00:00:00:00:07"}`, "", "10.65.0.1"},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			r := request("ADD", "c1")
			r.Plugin, r.Args = pluginIPAM, r.Args+tc.args
			r.Config = json.RawMessage(`{"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "ipam": {"type": "calico-ipam"}` + tc.more + `}`)
			if result := string(w.ok(r)); !strings.Contains(result, `"`+tc.want+`/26"`) {
				t.Errorf("result %s, want %s", result, tc.want)
			}
			r.Command = "DEL"
			w.ok(r)
			w.wantNothing()
		}))
	}
	t.Run("ranges are of others", inWorld(func(t *testing.T, w *world) {
		r := request("ADD", "c1")
		r.Plugin = pluginIPAM
		r.Config = json.RawMessage(`{"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "ipam": {"type": "calico-ipam"}, "runtimeConfig": {"ipRanges": [[{"subnet": "10.0.0.0/24"}]]}}`)
		if msg := w.fails(r, cniwire.CodeUnsupportedField); !strings.Contains(msg, "calico-ipam has IP pools") {
			t.Errorf("message %q", msg)
		}
		w.wantNothing()
	}))
}

// lines takes down what is logged.
type lines struct{ said []string }

func (l *lines) Write(p []byte) (int, error) {
	l.said = append(l.said, string(p))
	return len(p), nil
}

// TestUnknownKeysAreNamedOnceInTheLog, and nowhere else.
func TestUnknownKeysAreNamedOnceInTheLog(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		var log lines
		w.server.log = slog.New(slog.NewTextHandler(&log, nil))
		for range 3 {
			w.ok(configured("ADD", `, "vlan": 7, "ring": {"a": 1}`))
			w.ok(configured("DEL", `, "vlan": 7, "ring": {"a": 1}`))
		}
		w.wantNothing()
		named := slices.DeleteFunc(log.said, func(line string) bool { return !strings.Contains(line, "vlan") })
		if len(named) != 1 || !strings.Contains(named[0], "level=WARN") || !strings.Contains(named[0], `keys="[ring vlan]"`) || !strings.Contains(named[0], "network=net1") {
			t.Errorf("the log names them so: %q", named)
		}
	})(t)
}

func TestUnreadKeysAreBounded(t *testing.T) {
	var u unread
	for i := range 2 * maxUnread {
		u.first(fmt.Sprint(i), []string{"vlan"})
	}
	if len(u.told) != maxUnread {
		t.Errorf("%d are remembered", len(u.told))
	}
}

// TestUnknownKeysReachTheDelegate, in the outer object and in its own.
func TestUnknownKeysReachTheDelegate(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		r := delegatedRequest("ADD", "c1")
		r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "vlan": {"id": 7}, "example.org/x": [1], "args": {"org.example": {"a": 1}}, "runtimeConfig": {"ips": ["192.0.2.7/24"], "ring": "r1"},
			"ipam": {"type": "host-local", "ranges": [], "asign_ipv4": 12345678901234567890}}`)
		w.ok(r)
		want := []string{`"vlan":{"id":7}`, `"example.org/x":[1]`, `"args":{"org.example":{"a":1}}`, `"runtimeConfig":{"ips":["192.0.2.7/24"],"ring":"r1"}`, `"asign_ipv4":12345678901234567890`}
		got := strings.ReplaceAll(string(w.delegated.Config), " ", "")
		for _, part := range want {
			if !strings.Contains(got, part) {
				t.Errorf("the plugin got %s, without %s", got, part)
			}
		}
		w.ok(delegatedRequest("DEL", "c1"))
		w.wantNothing()
	})(t)
}

// TestWhoseWishGoesFirst: the runtime's, by CNI's conventions, then the pod's, then the
// configuration's.
func TestWhoseWishGoesFirst(t *testing.T) {
	const mac = `"mac": "02:00:00:00:00:07"`
	const capability, args, cniArgs, annotation = `"runtimeConfig": {"ips": ["10.65.3.1"]}`, `"args": {"cni": {"ips": ["10.65.3.2"], "mac": "02:00:00:00:00:08"}}`, "IP=10.65.3.3", `["10.65.3.4"]`
	for _, tc := range []struct{ name, capability, args, cniArgs, annotation, want, mac string }{
		{"capability", capability, args, cniArgs, annotation, "10.65.3.1", "02:00:00:00:00:08"},
		{"capability for the MAC address alone", `"runtimeConfig": {` + mac + `}`, args, cniArgs, annotation, "10.65.3.2", "02:00:00:00:00:07"},
		{"args of CNI", "", args, cniArgs, annotation, "10.65.3.2", "02:00:00:00:00:08"},
		{"CNI_ARGS", "", "", cniArgs, annotation, "10.65.3.3", ""},
		{"annotation", "", "", "", annotation, "10.65.3.4", ""},
		{"configuration", "", "", "", "", "10.65.0.1", ""},
	} {
		t.Run(tc.name, inWorld(func(t *testing.T, w *world) {
			if tc.annotation != "" {
				w.annotated("ipAddrs", tc.annotation)
			}
			more := ""
			for _, key := range []string{tc.capability, tc.args} {
				if key != "" {
					more += ", " + key
				}
			}
			r := configured("ADD", more)
			r.Args += ";" + tc.cniArgs
			w.ok(r)
			spec := w.endpoint("ns1", "node1-k8s-web--0-eth0").Spec
			if !slices.Equal(spec.IPNetworks, []string{tc.want + "/32"}) || tc.mac != "" && spec.MAC != tc.mac {
				t.Errorf("endpoint %+v", spec)
			}
		}))
	}
	t.Run("capability before addresses that nobody assigns", inWorld(func(t *testing.T, w *world) {
		w.annotated("ipAddrsNoIpam", `["192.0.2.9"]`)
		w.ok(configured("ADD", `, "feature_control": {"ip_addrs_no_ipam": true}, `+capability))
		addr := netip.MustParseAddr("10.65.3.1")
		if e := w.journal.Entries()[0]; e.Given || !slices.Equal(e.Addrs, []netip.Addr{addr}) || w.owner[addr] == "" {
			t.Errorf("entry %+v", e)
		}
	}))
	t.Run("CNI_ARGS of another IPAM plugin's is that one's", inWorld(func(t *testing.T, w *world) {
		r := delegatedRequest("ADD", "c1")
		r.Args += ";IP=192.0.2.8"
		w.ok(r)
		if !strings.Contains(w.delegated.Args, "IP=192.0.2.8") {
			t.Errorf("it got %q", w.delegated.Args)
		}
	}))
}
