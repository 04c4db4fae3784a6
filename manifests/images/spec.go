package main

import (
	"path/filepath"
	"time"
)

// build is what all images of one build share.
type build struct {
	bin, version, revision, repository string
	created                            time.Time
}

// file is one file of an image: content from the build machine, or a link.
type file struct {
	path   string // in the image
	source string // on the build machine
	link   string // the target, when it is a symbolic link
	data   []byte // when there is no source
	dir    bool
}

// image is one image to be built.
type image struct {
	name string
	// references are names with tags: the build's version, and that of the manifests.
	references []string
	user       string // of the processes, when the manifest says nothing
	command    []string
	labels     map[string]string
	created    time.Time
	// layers from the one that changes least.
	layers [][]file
	// tools are programs of the build machine that the image needs, with the
	// libraries they load.
	tools []string
}

// manifestTag is the tag that the manifests name, so that they find what was built
// last. A release names its version in both.
const manifestTag = "dev"

// nobody is the user of what needs no rights: the number that distroless images
// use as well.
const nobody = "65532:65532"

// images are all images. The node's has no shell: what an operator runs in it is
// calicoctl.
func (b build) images() []image {
	program := func(name, path string) file {
		return file{path: path, source: filepath.Join(b.bin, name)}
	}
	node := b.image("node", "felix, bgpd, the CNI plugin and calicoctl of a Tortie node")
	node.user, node.command = "0:0", []string{"/usr/bin/felix"}
	node.tools = []string{"/usr/sbin/nft"}
	node.layers = [][]file{base(), {
		program("felix", "usr/bin/felix"),
		program("bgpd", "usr/bin/bgpd"),
		program("calicoctl", "usr/bin/calicoctl"),
		program("install-cni", "usr/bin/install-cni"),
		program("calico", "opt/cni/bin/calico"),
		program("bandwidth", "opt/cni/bin/bandwidth"),
		program("portmap", "opt/cni/bin/portmap"),
		program("tuning", "opt/cni/bin/tuning"),
		{path: "opt/cni/bin/calico-ipam", link: "calico"},
		{path: "opt/cni/bin/loopback", link: "calico"},
	}}
	controllers := b.image("kube-controllers", "Kubernetes objects into Tortie's datastore, and clean-up after what is gone")
	controllers.user, controllers.command = nobody, []string{"/usr/bin/kube-controllers"}
	controllers.layers = [][]file{base(), {program("kube-controllers", "usr/bin/kube-controllers")}}
	etcd := b.image("etcd", "etcd as it is published, to try Tortie with")
	etcd.user, etcd.command = "0:0", []string{"/usr/local/bin/etcd"}
	etcd.layers = [][]file{base(), {program("etcd", "usr/local/bin/etcd")}}
	return []image{node, controllers, etcd}
}

func (b build) image(name, description string) image {
	return image{
		name: name, references: []string{b.repository + "/" + name + ":" + b.version, b.repository + "/" + name + ":" + manifestTag}, created: b.created,
		labels: map[string]string{
			"org.opencontainers.image.title":       b.repository + "/" + name,
			"org.opencontainers.image.description": description,
			"org.opencontainers.image.version":     b.version,
			"org.opencontainers.image.revision":    b.revision,
			"org.opencontainers.image.created":     b.created.Format(time.RFC3339),
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	}
}

// base is what a program may expect of any system.
func base() []file {
	return []file{
		{path: "etc/passwd", data: []byte("root:x:0:0:root:/:/sbin/nologin\nnobody:x:65532:65532:nobody:/:/sbin/nologin\n")},
		{path: "etc/group", data: []byte("root:x:0:\nnobody:x:65532:\n")},
		{path: "etc/hosts", data: []byte("127.0.0.1 localhost\n::1 localhost\n")}, // a kubelet puts the node's there
		{path: "tmp", dir: true},
		{path: "run", dir: true},
		{path: "var/run", link: "../run"},
	}
}
