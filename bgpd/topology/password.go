package topology

import (
	"fmt"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/bgpd/speaker"
)

// Secret is what is known of a Secret that a resource names: its keys, or why they
// are not known.
type Secret struct {
	// Where says which it is: "Secret bgp in namespace kube-system".
	Where string
	Keys  map[string]string
	// Problem says why there are no keys, and what to do.
	Problem string
}

// password is what a resource's field says; field is its name.
func (c *computation) password(field string, p *v3.BGPPassword) (speaker.Password, error) {
	if p == nil {
		return "", nil
	}
	ref := p.SecretKeyRef
	if ref == nil || ref.Name == "" || ref.Key == "" {
		return "", fmt.Errorf("%s.secretKeyRef: want the name of a secret and a key in it", field)
	}
	if !slices.Contains(c.out.Secrets, ref.Name) {
		c.out.Secrets = append(c.out.Secrets, ref.Name)
	}
	value, err := c.secret(ref)
	if err != nil {
		return "", fmt.Errorf("%s: %w", field, err)
	}
	return value, nil
}

// secret is never shorter than the field says: a peer that should have a password
// has no session without.
func (c *computation) secret(ref *corev1.SecretKeySelector) (speaker.Password, error) {
	secret, known := c.in.Secrets[ref.Name]
	switch {
	case !known:
		return "", fmt.Errorf("secret %s has not been read yet", ref.Name)
	case secret.Problem != "":
		return "", fmt.Errorf("key %s: %s", ref.Key, secret.Problem)
	}
	value, found := secret.Keys[ref.Key]
	value = strings.TrimRight(value, "\r\n") // of an editor, never meant
	switch {
	case !found:
		return "", fmt.Errorf("%s has no key %s: add it", secret.Where, ref.Key)
	case value == "":
		return "", fmt.Errorf("key %s of %s is empty: write a password there", ref.Key, secret.Where)
	case len(value) > speaker.MaxPassword:
		return "", fmt.Errorf("key %s of %s has %d bytes, and TCP MD5 takes at most %d: write a shorter password there",
			ref.Key, secret.Where, len(value), speaker.MaxPassword)
	}
	return speaker.Password(value), nil
}

// meshPassword finds the password of the mesh, if this node has a part in it.
func (c *computation) meshPassword() {
	s := &c.settings
	if !s.mesh || c.self.cluster.IsValid() {
		return
	}
	var err error
	if s.meshPassword, err = c.password("spec.nodeMeshPassword", s.meshPasswordRef); err != nil {
		s.meshRefused = err.Error() + "; there are no mesh sessions until then"
	}
}
