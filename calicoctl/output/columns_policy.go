package output

import (
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

// policy is the part of every policy kind that tables show.
type policy struct {
	tier     string
	order    *float64
	selector string
}

func policyLayout[T api.Object](namespaced bool, read func(obj T) policy) layout {
	return layout{
		namespaced: namespaced,
		narrow:     []string{"NAME", "TIER"},
		wide:       []string{"NAME", "TIER", "ORDER", "SELECTOR"},
		columns: []column{
			nameColumn(),
			of("TIER", func(o T) string { return textOr(read(o).tier, "default") }),
			of("ORDER", func(o T) string { return order(read(o).order) }),
			of("SELECTOR", func(o T) string { return read(o).selector }),
		},
	}
}

func addPolicies(all map[api.Kind]layout) {
	all[api.KindGlobalNetworkPolicy] = policyLayout(false, func(o *v3.GlobalNetworkPolicy) policy {
		return policy{o.Spec.Tier, o.Spec.Order, o.Spec.Selector}
	})
	all[api.KindNetworkPolicy] = policyLayout(true, func(o *v3.NetworkPolicy) policy {
		return policy{o.Spec.Tier, o.Spec.Order, o.Spec.Selector}
	})
	all[api.KindStagedGlobalNetworkPolicy] = policyLayout(false, func(o *v3.StagedGlobalNetworkPolicy) policy {
		return policy{o.Spec.Tier, o.Spec.Order, o.Spec.Selector}
	})
	all[api.KindStagedNetworkPolicy] = policyLayout(true, func(o *v3.StagedNetworkPolicy) policy {
		return policy{o.Spec.Tier, o.Spec.Order, o.Spec.Selector}
	})
	all[api.KindStagedKubernetesNetworkPolicy] = layout{
		namespaced: true,
		narrow:     []string{"NAME"}, wide: []string{"NAME", "PODSELECTOR"},
		columns: []column{
			nameColumn(),
			of("PODSELECTOR", func(o *v3.StagedKubernetesNetworkPolicy) string {
				return metav1.FormatLabelSelector(&o.Spec.PodSelector)
			}),
		},
	}
	all[api.KindGlobalNetworkSet] = setLayout(false, func(o *v3.GlobalNetworkSet) []string { return o.Spec.Nets })
	all[api.KindNetworkSet] = setLayout(true, func(o *v3.NetworkSet) []string { return o.Spec.Nets })
}

func setLayout[T api.Object](namespaced bool, nets func(obj T) []string) layout {
	return layout{
		namespaced: namespaced,
		narrow:     []string{"NAME"}, wide: []string{"NAME", "NETS"},
		columns: []column{
			nameColumn(),
			of("NETS", func(o T) string { return truncate(strings.Join(nets(o), ","), 80) }),
		},
	}
}
