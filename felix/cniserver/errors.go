package cniserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/delegate"
	"tortie/felix/podnet"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// wireError puts an error into CNI's classes. The text is for the operator who
// reads it in the events of a pod: what, where, what to do.
func wireError(command string, err error) *cniwire.Error {
	var (
		coded  *cniwire.Error
		conf   *netconf.Error
		args   *netconf.ArgsError
		wish   *netconf.AnnotationError
		lacks  *delegate.MissingError
		noCIDR *netconf.NoPodCIDRError
		wait   *notReadyError
		syntax *json.SyntaxError
	)
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.As(err, &conf):
		return &cniwire.Error{Code: cniwire.CodeInvalidConfig, Msg: conf.Error()}
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
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%s: %v: not done in time; is the datastore slow or away? See felix's log", command, err)
	case errors.Is(err, datastore.ErrUnauthorized):
		return fmt.Sprintf("%s: %v; check felix's etcd user and certificates", command, err)
	}
	return fmt.Sprintf("%s: %v", command, err)
}

func invalidEnvironment(format string, args ...any) error {
	return &cniwire.Error{Code: cniwire.CodeInvalidEnvironment, Msg: fmt.Sprintf(format, args...)}
}
