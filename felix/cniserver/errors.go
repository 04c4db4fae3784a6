package cniserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/delegate"
	"tortie/felix/podnet"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// wireError puts an error into CNI's classes. The text is for the operator who reads it
// in the events of a pod: what and where in msg, on one line, and in details what to do
// where that is not said.
func wireError(command string, err error) *cniwire.Error {
	told := *classed(command, err)
	if told.Details == "" {
		told.Details = remedy(command, told.Code, err)
	}
	return &told
}

// severalError is more than one failure of a call that goes on past each.
type severalError struct{ errs []error }

// Error has all of them on one line.
func (e *severalError) Error() string {
	return strings.ReplaceAll(errors.Join(e.errs...).Error(), "\n", "; ")
}

func (e *severalError) Unwrap() []error { return e.errs }

// code is theirs where they agree.
func (e *severalError) code(command string) uint {
	code := classed(command, e.errs[0]).Code
	for _, err := range e.errs {
		if classed(command, err).Code != code {
			return cniwire.CodeInternal
		}
	}
	return code
}

func classed(command string, err error) *cniwire.Error {
	if many, ok := errors.AsType[*severalError](err); ok {
		return &cniwire.Error{Code: many.code(command), Msg: message(command, err)}
	}
	var (
		coded  *cniwire.Error
		conf   *netconf.Error
		args   *netconf.ArgsError
		wish   *netconf.AnnotationError
		lacks  *delegate.MissingError
		noCIDR *netconf.NoPodCIDRError
		wait   *notReadyError
		netns  *podnet.NetnsError
		asked  *ipam.AddressError
		syntax *json.SyntaxError
	)
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.As(err, &conf):
		code := uint(cniwire.CodeInvalidConfig)
		if conf.Unsupported {
			code = cniwire.CodeUnsupportedField
		}
		return &cniwire.Error{Code: code, Msg: conf.Error()}
	case errors.As(err, &wish):
		return &cniwire.Error{Code: cniwire.CodeInvalidConfig, Msg: wish.Error()}
	case errors.As(err, &lacks):
		return &cniwire.Error{Code: cniwire.CodeInvalidConfig, Msg: lacks.Error()}
	case errors.As(err, &args):
		return &cniwire.Error{Code: cniwire.CodeInvalidEnvironment, Msg: args.Error()}
	case errors.As(err, &syntax):
		return &cniwire.Error{Code: cniwire.CodeDecodingFailure, Msg: err.Error()}
	case errors.As(err, &noCIDR):
		return &cniwire.Error{Code: cniwire.CodeTryAgainLater, Msg: noCIDR.Error()}
	case errors.As(err, &netns):
		return &cniwire.Error{Code: cniwire.CodeInvalidEnvironment, Msg: command + ": CNI_NETNS " + netns.Error()}
	case errors.As(err, &asked) && errors.Is(asked, ipam.ErrNoPool): // which no other try would find
		return &cniwire.Error{Code: cniwire.CodeInvalidConfig, Msg: command + ": the address that is asked for, " + asked.Error()}
	case errors.As(err, &wait):
		return &cniwire.Error{Code: cniwire.CodeTryAgainLater, Msg: err.Error()}
	}
	return &cniwire.Error{Code: codeOf(err), Msg: message(command, err)}
}

func codeOf(err error) uint {
	var errno syscall.Errno
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, errHungUp),
		errors.Is(err, datastore.ErrUnavailable), errors.Is(err, datastore.ErrUnauthorized), errors.Is(err, datastore.ErrConflict),
		errors.Is(err, ipam.ErrNoPool), errors.Is(err, ipam.ErrPoolFull), errors.Is(err, ipam.ErrBlockLimit),
		errors.Is(err, ipam.ErrNodeUnknown), errors.Is(err, ipam.ErrClosed),
		errors.Is(err, ipam.ErrInUse), errors.Is(err, ipam.ErrNotOurs):
		return cniwire.CodeTryAgainLater
	case errors.Is(err, ipam.ErrInvalid), errors.Is(err, podnet.ErrInvalid):
		return cniwire.CodeInvalidConfig
	case errors.Is(err, podnet.ErrNoNetns):
		return cniwire.CodeInvalidEnvironment
	case errors.As(err, &errno) && (errno == syscall.EIO || errno == syscall.ENOSPC || errno == syscall.EROFS):
		return cniwire.CodeIOFailure
	}
	return cniwire.CodeInternal
}

func message(command string, err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if errors.Is(err, context.DeadlineExceeded) {
		text += ": not done in time"
	}
	return command + ": " + text
}

// remedy is what to do about an error; empty where its message says so, or where there is
// nothing to do but to try again.
func remedy(command string, code uint, err error) string {
	switch {
	case errors.Is(err, datastore.ErrUnauthorized):
		return "check felix's etcd user and certificates"
	case errors.Is(err, context.DeadlineExceeded):
		return "is the datastore slow or away? See calicoctl node status and felix's log on this node"
	case code == cniwire.CodeTryAgainLater && (errors.Is(err, ipam.ErrPoolFull) || errors.Is(err, ipam.ErrBlockLimit) || errors.Is(err, ipam.ErrNoPool)):
		return "calicoctl ipam show --show-blocks says what is assigned where; calicoctl ipam check finds addresses that were lost"
	case code == cniwire.CodeIOFailure:
		return "felix keeps its journal of attachments on this node's disk, under FELIX_JOURNALDIR: where that is full, read-only or broken, mend it and the next try succeeds"
	case code == cniwire.CodeInternal && command == "CHECK":
		return "ADD of the same container mends what felix made; else DEL, then ADD"
	case code == cniwire.CodeInternal:
		return "felix's log on this node and calicoctl node status say more"
	}
	return ""
}

func invalidEnvironment(format string, args ...any) error {
	return &cniwire.Error{Code: cniwire.CodeInvalidEnvironment, Msg: fmt.Sprintf(format, args...)}
}
