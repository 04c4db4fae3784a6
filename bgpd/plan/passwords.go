package plan

import (
	"crypto/sha256"
	"encoding/hex"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/bgpd/topology"
)

// standIns are the secrets that resources name, each key with a value that stands for
// the password: the datastore has none. One secret and key is one password, another is
// another; all are taken to be there, else a plan would have no session with a password.
func standIns(in topology.Input) map[string]topology.Secret {
	out := map[string]topology.Secret{}
	add := func(p *v3.BGPPassword) {
		if p == nil || p.SecretKeyRef == nil {
			return
		}
		name, key := p.SecretKeyRef.Name, p.SecretKeyRef.Key
		if _, there := out[name]; !there {
			out[name] = topology.Secret{Where: "secret " + name, Keys: map[string]string{}}
		}
		sum := sha256.Sum256([]byte(name + "/" + key)) // a name may be longer than a password
		out[name].Keys[key] = hex.EncodeToString(sum[:])
	}
	for _, p := range in.Peers {
		add(p.Spec.Password)
	}
	for _, c := range in.Configs {
		add(c.Spec.NodeMeshPassword)
	}
	return out
}
