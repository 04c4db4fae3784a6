package config

import (
	"slices"
	"strings"
)

// Variable is one of the environment of upstream's calico/node that is no felix
// parameter and that nothing here reads.
type Variable struct {
	Name string
	// Fine are values that ask for what happens anyway; "*" is any.
	Fine []string
	// Refused: felix doesn't start with another value, for it asks for something that
	// the operator would miss. Else it is told of in the log.
	Refused bool
	// Instead says what happens, or what to do.
	Instead string
}

// Variables are all of them.
func Variables() []Variable {
	return []Variable{
		{Name: "CLUSTER_TYPE", Fine: []string{"*"}, Instead: "nothing depends on it"},
		{Name: "WAIT_FOR_DATASTORE", Fine: []string{"*"}, Instead: "felix and bgpd wait for the datastore and serve what they can meanwhile"},
		{Name: "CALICO_DISABLE_FILE_LOGGING", Fine: []string{"true"}, Instead: "logs go to standard error only"},
		{Name: "CALICO_STARTUP_LOGLEVEL", Instead: "the start is logged as everything else: set FELIX_LOGSEVERITYSCREEN"},
		{Name: "BGP_LOGSEVERITYSCREEN", Instead: "set BGPD_LOG_LEVEL"},
		{Name: "CALICO_MANAGE_CNI", Fine: []string{"*"}, Instead: "the CNI plugin has no credentials to be renewed"},
		{Name: "CALICO_CNI_SERVICE_ACCOUNT", Fine: []string{"*"}, Instead: "the CNI plugin has no credentials"},
		{Name: "AUTODETECT_POLL_INTERVAL", Instead: "a changed address is followed at once"},
		{Name: "DISABLE_NODE_IP_CHECK", Fine: []string{"true"}, Instead: "addresses of other nodes are not compared with this one's"},
		{Name: "CALICO_ROUTER_ID", Fine: []string{"hash"}, Refused: true, Instead: "the router ID is the node's IPv4 address, else a hash of its name: leave it out"},
		{Name: "USE_POD_CIDR", Fine: []string{"false"}, Refused: true, Instead: "addresses come from IP pools, not from the node's podCIDR: leave it out"},
		{Name: "CALICO_EARLY_NETWORKING", Refused: true, Instead: "the node's own addresses must be there before: leave it out"},
		{Name: "CALICO_LIBNETWORK_ENABLED", Fine: []string{"false"}, Refused: true, Instead: "there is no plugin for Docker's networks: leave it out"},
		{Name: "CALICO_ADVERTISE_CLUSTER_IPS", Refused: true, Instead: "set serviceClusterIPs in the BGPConfiguration default"},
		{Name: "CALICO_ADVERTISE_EXTERNAL_IPS", Refused: true, Instead: "set serviceExternalIPs in the BGPConfiguration default"},
		{Name: "K8S_API_ENDPOINT", Instead: "the datastore is etcd"},
		{Name: "K8S_CERT_FILE", Instead: "the datastore is etcd"},
		{Name: "K8S_KEY_FILE", Instead: "the datastore is etcd"},
		{Name: "K8S_CA_FILE", Instead: "the datastore is etcd"},
	}
}

// FromUpstream tells what of these variables is set to something that does not
// happen.
func FromUpstream(getenv func(string) string) []Problem {
	var problems []Problem
	for _, v := range Variables() {
		value := getenv(v.Name)
		fine := func(f string) bool { return f == "*" || strings.EqualFold(f, value) }
		if value == "" || slices.ContainsFunc(v.Fine, fine) {
			continue
		}
		reason := "has no effect: " + v.Instead
		if v.Refused {
			reason = "is not supported: " + v.Instead
		}
		problems = append(problems, Problem{Source: "environment", Name: v.Name + "=" + value, Reason: reason, Bad: v.Refused})
	}
	return problems
}
