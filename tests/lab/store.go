package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/ipam/ipamtest"
)

// StoreReport is what stands in the datastore, and what is wrong with it.
type StoreReport struct {
	// Endpoints are the workload endpoints, "namespace/name".
	Endpoints []string `json:"endpoints"`
	// Allocated are the addresses in use, with their handles.
	Allocated map[string]string `json:"allocated"`
	// Problems are violations of the allocator's invariants, and keys that can't
	// be read.
	Problems []string `json:"problems"`
}

// ReadStore reads the datastore that the environment names and checks it. It runs
// on a node, as the hidden command `lab store`.
func ReadStore(ctx context.Context, log *slog.Logger) (StoreReport, error) {
	cfg, err := datastore.LoadConfig("", os.Getenv)
	if err != nil {
		return StoreReport{}, err
	}
	client, err := etcd.New(ctx, etcd.Config{Config: cfg}, api.NewRegistry(), log)
	if err != nil {
		return StoreReport{}, err
	}
	defer client.Close()
	report := StoreReport{Allocated: map[string]string{}}
	if err := ipamtest.Check(ctx, client); err != nil {
		report.Problems = append(report.Problems, err.Error())
	}
	endpoints, err := client.List(ctx, datastore.Range{Kind: api.KindWorkloadEndpoint})
	if err != nil {
		return report, err
	}
	for _, e := range endpoints.Entries {
		report.Endpoints = append(report.Endpoints, e.Key.Namespace+"/"+e.Key.Name)
	}
	blocks, err := client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return report, err
	}
	for _, inv := range slices.Concat(endpoints.Invalid, blocks.Invalid) {
		report.Problems = append(report.Problems, fmt.Sprintf("%s: %v", inv.Path, inv.Err))
	}
	for _, e := range blocks.Entries {
		b := e.Object.(*api.IPAMBlock)
		for ordinal, index := range b.Spec.Allocations {
			if index == nil {
				continue
			}
			handle := ""
			if h := b.Spec.Attributes[*index].HandleID; h != nil {
				handle = *h
			}
			report.Allocated[fmt.Sprintf("%s#%d", b.Spec.CIDR, ordinal)] = handle
		}
	}
	return report, nil
}

// Store runs ReadStore on the first node.
func (l *Lab) Store() (StoreReport, error) {
	var out, errs bytes.Buffer
	var report StoreReport
	err := l.Exec(l.st.Topology.Nodes[0].Name, []string{"lab", "store"}, Stdio{Out: &out, Err: &errs})
	if err != nil {
		return report, fmt.Errorf("read the store: %w: %s", err, errs.String())
	}
	return report, json.Unmarshal(out.Bytes(), &report)
}
