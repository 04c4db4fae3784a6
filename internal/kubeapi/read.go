package kubeapi

import (
	"context"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// List is a list of objects.
type List interface {
	metav1.ListInterface
	runtime.Object
}

// pageSize is how many objects the API server is asked for at once.
const pageSize = 500

// All reads all objects of a resource, page after page, each into a fresh list.
func All[L List](ctx context.Context, c *Client, resource string, fresh func() L, read func(page L)) error {
	next := ""
	for {
		req := c.rest.Get().Resource(resource).Param("limit", strconv.Itoa(pageSize))
		if next != "" {
			req = req.Param("continue", next)
		}
		page := fresh()
		err := req.Do(ctx).Into(page)
		if err := c.note(ctx, request{resource, "list"}, Access{Role: c.role, Verbs: "list", Resource: resource}, err); err != nil {
			return err
		}
		read(page)
		if next = page.GetContinue(); next == "" {
			return nil
		}
	}
}

// Get reads one object; found is false when the API server says that there is none. A
// 404 of somebody who is no API server is an error.
func (c *Client) Get(ctx context.Context, resource, namespace, name string, into runtime.Object) (found bool, err error) {
	req := c.rest.Get().Resource(resource).Name(name)
	if namespace != "" {
		req = req.Namespace(namespace)
	}
	err = req.Do(ctx).Into(into)
	if apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return false, nil
	}
	err = c.note(ctx, request{resource, "get"}, Access{Role: c.role, Verbs: "get", Resource: resource}, err)
	return err == nil, err
}
