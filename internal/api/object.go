// Package api is the vocabulary of the system: the resource kinds, their keys,
// their stored form, their defaults and their validation. It holds no state and
// does no I/O.
package api

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// GroupVersion is the apiVersion of every resource.
const GroupVersion = "projectcalico.org/v3"

// Object is any resource: the types of github.com/projectcalico/api v3 and
// those defined here.
type Object interface {
	metav1.Object
	runtime.Object
}
