package topology

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

// bfd is what an object asks of BFD. A value that makes no sense costs its sessions
// BFD only.
func (c *computation) bfd(kind string, o metav1.Object) api.BFD {
	out, err := api.ParseBFD(o.GetAnnotations()[api.AnnotationBFD])
	if err != nil {
		c.problem("%s %s: annotation %s: %v; its sessions are without BFD", kind, o.GetName(), api.AnnotationBFD, err)
	}
	return out
}
