package cmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/filefault"
	"tortie/ipam/check"
)

// ipamReport is what check writes and release reads: upstream's form, with our findings.
type ipamReport struct {
	Version         string                         `json:"version"`
	ClusterGUID     string                         `json:"clusterGUID"`
	DatastoreLocked bool                           `json:"datastoreLocked"`
	ClusterRevision string                         `json:"clusterInformationRevision"`
	ClusterType     string                         `json:"clusterType"`
	Allocations     map[string][]*reportAllocation `json:"allocations"`
	LeakedHandles   []reportHandle                 `json:"leakedHandles,omitempty"`
	Findings        []reportFinding                `json:"findings,omitempty"`
}

type reportAllocation struct {
	IP                string   `json:"ip"`
	Handle            string   `json:"handle,omitempty"`
	SequenceNumber    *uint64  `json:"sequenceNumber,omitempty"`
	Pod               string   `json:"pod,omitempty"`
	Namespace         string   `json:"namespace,omitempty"`
	Node              string   `json:"node,omitempty"`
	Type              string   `json:"type,omitempty"`
	CreationTimestamp string   `json:"creationTimestamp,omitempty"`
	InUse             bool     `json:"inUse"`
	Borrowed          bool     `json:"borrowed,omitempty"`
	Owners            []string `json:"owners"`
}

type reportHandle struct {
	ID       string
	UID      *string
	Revision string
}

type reportFinding struct {
	Kind     string `json:"kind"`
	Where    string `json:"where"`
	What     string `json:"what"`
	Why      string `json:"why"`
	Do       string `json:"do"`
	Mendable bool   `json:"mendable"`
	// Kept is why fsck leaves it as it is.
	Kept string `json:"kept,omitempty"`
}

func newIPAMReport(version string, info *v3.ClusterInformation, in check.Input, result check.Result) ipamReport {
	r := ipamReport{
		Version: version, ClusterGUID: info.Spec.ClusterGUID, ClusterType: info.Spec.ClusterType, ClusterRevision: info.ResourceVersion,
		DatastoreLocked: info.Spec.DatastoreReady != nil && !*info.Spec.DatastoreReady,
		Allocations:     map[string][]*reportAllocation{},
	}
	for _, a := range result.Addresses {
		sequence, ip := a.Sequence, a.Addr.String()
		r.Allocations[ip] = append(r.Allocations[ip], &reportAllocation{
			IP: ip, Handle: string(a.Handle), SequenceNumber: &sequence, Node: a.Node,
			Pod: a.Attrs[api.AttributePod], Namespace: a.Attrs[api.AttributeNamespace], Type: a.Attrs[api.AttributeType],
			CreationTimestamp: a.Attrs[api.AttributeTimestamp], InUse: len(a.Users) > 0, Borrowed: a.Borrowed(), Owners: a.Users,
		})
	}
	revisions := handleRevisions(in)
	for _, f := range result.Findings {
		if f.Kind == check.OrphanHandle {
			r.LeakedHandles = append(r.LeakedHandles, reportHandle{ID: string(f.Handle), Revision: revisions[string(f.Handle)]})
		}
		r.Findings = append(r.Findings, reportFinding{string(f.Kind), f.Where, f.What, f.Why, f.Do, f.Mendable, f.Kept})
	}
	return r
}

// handleRevisions are the revisions of all handles, by ID.
func handleRevisions(in check.Input) map[string]string {
	out := map[string]string{}
	for _, entry := range in.Handles {
		out[entry.Key.Name] = strconv.FormatInt(int64(entry.Revision), 10)
	}
	return out
}

func writeReport(path string, r ipamReport) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil { //nolint:gosec // a report is for everybody
		return fmt.Errorf("write the report: %w", filefault.Explain(err))
	}
	return nil
}

func readReport(path string) (ipamReport, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ipamReport{}, fmt.Errorf("read the report: %w", filefault.Explain(err))
	}
	var r ipamReport
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&r); err != nil || r.Allocations == nil {
		return ipamReport{}, fmt.Errorf("read the report %s: it is none of calicoctl ipam check -o", path)
	}
	for ip, list := range r.Allocations {
		for _, x := range list {
			if x == nil || x.IP != ip {
				return ipamReport{}, fmt.Errorf("read the report %s: allocations[%q] is about another address", path, ip)
			}
			if _, err := netip.ParseAddr(ip); err != nil {
				return ipamReport{}, fmt.Errorf("read the report %s: allocations[%q] is no address", path, ip)
			}
		}
	}
	return r, nil
}
