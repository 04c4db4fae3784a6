package cmd

import (
	"context"
	"net/netip"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/ipam"
)

// showHistory lists who has an address and who had it, the latest first.
func (a *app) showHistory(ctx context.Context, store *resource.Store, addr netip.Addr) error {
	owners, invalid, err := ipam.History(ctx, store.Client, addr)
	if err != nil {
		return err
	}
	a.warnOfUnread(invalid, "is not shown")
	if len(owners) == 0 {
		a.printf("Nobody is known to have had %s.\n", addr)
		return nil
	}
	t := a.boxed("FROM", "UNTIL", "OWNER", "NODE", "HANDLE", "WHY IT ENDED")
	for _, o := range owners {
		until, reason := "now", "-"
		if !o.Released.IsZero() {
			until, reason = a.stamp(o.Released), orElse(oneLine(o.Reason), "-")
		}
		t.AppendRow(table.Row{
			a.stamp(o.Assigned), until, oneLine(ownerName(o.Attrs)), orElse(oneLine(o.Attrs[api.AttributeNode]), "-"),
			orElse(oneLine(string(o.Handle)), "-"), reason,
		})
	}
	a.println(t.Render())
	return nil
}

// ownerName is who had an address: a pod, or what its attributes call it.
func ownerName(attrs map[string]string) string {
	if pod := attrs[api.AttributePod]; pod != "" {
		return attrs[api.AttributeNamespace] + "/" + pod
	}
	return orElse(attrs[api.AttributeType], "-")
}

func (a *app) stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(a.Now().Location()).Format("2006-01-02 15:04:05")
}
