package etcd

import (
	"context"

	"google.golang.org/grpc/stats"

	"tortie/internal/datastore"
)

// sentHandler tells those who asked for it when their request has been handed to
// the connection.
type sentHandler struct{}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentHandler) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if _, out := event.(*stats.OutPayload); out {
		datastore.Sent(ctx)
	}
}

func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (sentHandler) HandleConn(context.Context, stats.ConnStats) {}
