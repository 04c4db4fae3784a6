package api

import (
	"reflect"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

func checkKubeControllersConfiguration(c *checker, k *v3.KubeControllersConfiguration) {
	s := &k.Spec
	c.logLevel("spec.logSeverityScreen", s.LogSeverityScreen)
	oneOf(c, "spec.healthChecks", s.HealthChecks, v3.Enabled, v3.Disabled)
	c.duration("spec.etcdV3CompactionPeriod", s.EtcdV3CompactionPeriod, 0)
	between(c, "spec.prometheusMetricsPort", s.PrometheusMetricsPort, 0, 65535)
	between(c, "spec.debugProfilePort", s.DebugProfilePort, 0, 65535)
	const prefix = "spec.controllers."
	if p := s.Controllers.Policy; p != nil {
		c.duration(prefix+"policy.reconcilerPeriod", p.ReconcilerPeriod, 0)
	}
	if w := s.Controllers.WorkloadEndpoint; w != nil {
		c.duration(prefix+"workloadEndpoint.reconcilerPeriod", w.ReconcilerPeriod, 0)
	}
	if a := s.Controllers.ServiceAccount; a != nil {
		c.duration(prefix+"serviceAccount.reconcilerPeriod", a.ReconcilerPeriod, 0)
	}
	if n := s.Controllers.Namespace; n != nil {
		c.duration(prefix+"namespace.reconcilerPeriod", n.ReconcilerPeriod, 0)
	}
	if l := s.Controllers.LoadBalancer; l != nil {
		oneOf(c, prefix+"loadBalancer.assignIPs", l.AssignIPs, v3.AllServices, v3.RequestedServicesOnly)
	}
	if n := s.Controllers.Node; n != nil {
		c.nodeController(prefix+"node", n)
	}
}

func (c *checker) nodeController(field string, n *v3.NodeControllerConfig) {
	c.duration(field+".reconcilerPeriod", n.ReconcilerPeriod, 0)
	c.duration(field+".leakGracePeriod", n.LeakGracePeriod, 0)
	oneOf(c, field+".syncLabels", n.SyncLabels, v3.Enabled, v3.Disabled)
	if n.HostEndpoint == nil {
		return
	}
	field += ".hostEndpoint"
	oneOf(c, field+".autoCreate", n.HostEndpoint.AutoCreate, v3.Enabled, v3.Disabled)
	oneOf(c, field+".createDefaultHostEndpoint", n.HostEndpoint.CreateDefaultHostEndpoint,
		v3.DefaultHostEndpointsEnabled, v3.DefaultHostEndpointsDisabled)
	for i, t := range n.HostEndpoint.Templates {
		field := at(field+".templates", i)
		c.optionalName(field+".generateName", t.GenerateName)
		c.networks(field+".interfaceCIDRs", t.InterfaceCIDRs)
		regexRule(c, field+".interfaceSelector", reflect.ValueOf(t.InterfaceSelector))
		c.labels(field+".labels", t.Labels)
		c.selector(field+".nodeSelector", t.NodeSelector)
		if len(t.InterfaceCIDRs) == 0 && t.InterfaceSelector == "" {
			c.missing(field, "want interfaceCIDRs or interfaceSelector")
		}
	}
}
