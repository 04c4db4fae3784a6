// Package arch holds the rules of the architecture as tests, so that they don't
// decay: which package may import which, one package comment each, no init(), and
// no page that names a path that isn't there.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the repository, seen from this package.
const root = "../.."

// rule forbids packages below From to import packages below any of Deny, unless
// the importer is below one of Except or the imported below one of Allow.
type rule struct {
	from, why           string
	deny, except, allow []string
}

func rules() []rule {
	pure := []string{
		"os", "net", "net/http", "os/exec", "syscall", "golang.org/x/sys/unix",
		"github.com/vishvananda/netlink", "go.etcd.io/etcd", "tortie/internal/datastore/etcd",
	}
	controllers := []string{"tortie/kube-controllers/mirror", "tortie/kube-controllers/endpoints", "tortie/kube-controllers/nodes", "tortie/kube-controllers/leaks", "tortie/kube-controllers/autotopology"}
	return []rule{
		{from: "tortie/felix/calc", deny: pure, why: "calc is pure: no I/O, no clock"},
		{from: "tortie/bgpd/topology", deny: pure, why: "topology is pure"},
		{from: "tortie/bgpd/filter", deny: pure, why: "filter is pure"},
		{from: "tortie/bgpd/bfd", deny: pure, except: []string{"tortie/bgpd/bfd/server"}, why: "BFD's state machine is told packets and the time"},
		{from: "tortie/bgpd/policy", deny: pure, why: "policy is pure"},
		{from: "tortie/internal/overlay", deny: pure, why: "what carries packets is decided by the cluster's resources alone"},
		{from: "tortie/internal/selector", deny: pure, why: "selectors are pure"},
		{from: "tortie/internal/delta", deny: pure, why: "delta is pure"},
		{from: "tortie/internal/advertise", deny: append([]string{"tortie/internal/datastore"}, pure...), why: "what is announced is decided without I/O"},
		{
			from: "tortie/internal/autotopology", deny: append([]string{"tortie/internal/datastore"}, pure...),
			except: []string{"tortie/internal/autotopology/carryout"}, why: "what auto-topology does is decided without I/O",
		},
		{from: "tortie/internal/bgpsummary", deny: pure, why: "the vocabulary is pure"},
		{from: "tortie/ipam/proof", deny: append([]string{"k8s.io/client-go"}, pure...), why: "whether an address is nobody's is judged without asking anybody"},
		{from: "tortie/ipam/check", deny: append([]string{"k8s.io/client-go"}, pure...), why: "what is wrong is found in what was read"},
		{from: "tortie/internal/api", deny: pure, why: "the vocabulary is pure"},
		{
			from: "tortie", deny: []string{"github.com/osrg/gobgp"},
			except: []string{"tortie/bgpd/speaker/gobgp", "tortie/tests"},
			why:    "only bgpd/speaker/gobgp knows GoBGP",
		},
		{
			from: "tortie", deny: []string{"go.etcd.io/etcd/client"},
			except: []string{"tortie/internal/datastore/etcd", "tortie/tests"},
			why:    "only internal/datastore/etcd knows the etcd client",
		},
		{
			from: "tortie", deny: []string{"go.etcd.io/etcd/server"},
			except: []string{"tortie/internal/datastore/etcd/etcdtest", "tortie/tests"},
			why:    "an embedded etcd is for tests and the lab",
		},
		{
			from: "tortie", deny: []string{"github.com/vishvananda/netlink", "github.com/vishvananda/netns"},
			except: []string{"tortie/internal/kernel", "tortie/tests"},
			why:    "only internal/kernel speaks netlink: it retries interrupted dumps",
		},
		{
			from: "tortie/ipam", deny: []string{"tortie/internal/kernel", "tortie/felix", "tortie/bgpd"},
			why: "ipam talks to the datastore only",
		},
		{
			from: "tortie/internal", deny: []string{"tortie/felix", "tortie/bgpd", "tortie/calicoctl", "tortie/cni-plugin", "tortie/kube-controllers", "tortie/ipam", "tortie/tests"},
			why: "imports go down only: internal is below the programs",
		},
		{from: "tortie/felix", deny: []string{"tortie/bgpd", "tortie/calicoctl", "tortie/kube-controllers", "tortie/cni-plugin", "tortie/tests"}, why: "programs don't import one another"},
		{from: "tortie/bgpd", deny: []string{"tortie/felix", "tortie/calicoctl", "tortie/kube-controllers", "tortie/cni-plugin", "tortie/tests", "tortie/ipam"}, why: "programs don't import one another"},
		{
			from: "tortie/calicoctl", deny: []string{"tortie/felix", "tortie/bgpd", "tortie/kube-controllers", "tortie/cni-plugin", "tortie/tests"},
			allow: []string{"tortie/bgpd/plan"}, why: "programs don't import one another; what bgpd would make of a change is its own pure code",
		},
		{from: "tortie/bgpd/plan", deny: append([]string{"tortie/bgpd/daemon", "tortie/bgpd/fib", "tortie/bgpd/speaker/gobgp", "tortie/internal/kernel", "tortie/internal/datastore"}, pure...), why: "plan is pure"},
		{from: "tortie/bgpd/decision", deny: pure, why: "decision is pure"},
		{
			from: "tortie/kube-controllers", deny: []string{"tortie/felix", "tortie/bgpd", "tortie/calicoctl", "tortie/cni-plugin", "tortie/tests", "tortie/internal/kernel"},
			why: "programs don't import one another, and this one runs on no node in particular",
		},
		{from: "tortie/kube-controllers/convert", deny: append([]string{"k8s.io/client-go", "tortie/internal/datastore"}, pure...), why: "conversion is pure"},
		{from: "tortie/internal/podendpoint", deny: append([]string{"k8s.io/client-go", "tortie/internal/datastore"}, pure...), why: "conversion is pure"},
		{from: "tortie/internal/qos", deny: append([]string{"k8s.io/client-go", "tortie/internal/datastore"}, pure...), why: "qos is pure"},
		{
			from: "tortie", deny: []string{"k8s.io/client-go"},
			except: []string{"tortie/internal/kubeapi", "tortie/kube-controllers", "tortie/tests"},
			why:    "programs on a node talk to the API server through internal/kubeapi, which does without the clientset",
		},
		{
			from: "tortie/internal/kubeapi", deny: []string{"k8s.io/client-go/kubernetes", "k8s.io/client-go/informers"},
			why: "the clientset is not for programs on a node: it is more code and memory than all they use",
		},
		{
			from: "tortie/cni-plugin", deny: []string{"tortie/internal/kubeevent", "net/http"},
			except: []string{"tortie/cni-plugin/install"},
			why:    "the plugin is a thin client; only its installer tells Kubernetes",
		},
		{
			from: "tortie/kube-controllers", deny: []string{"k8s.io/client-go/kubernetes", "k8s.io/client-go/informers", "k8s.io/client-go/tools"},
			except: []string{"tortie/kube-controllers/kube", "tortie/kube-controllers/kubetest", "tortie/kube-controllers/daemon"},
			why:    "only kube talks to the API server; controllers see it through kube.Resource",
		},
		{
			from:   "tortie/kube-controllers",
			deny:   append([]string{"tortie/kube-controllers/kubetest", "tortie/internal/datastore/etcd"}, controllers...),
			except: []string{"tortie/kube-controllers/daemon"},
			why:    "imports go down only: main → daemon → controllers → queue, state, kube → convert; controllers don't know one another",
		},
		{
			from: "tortie/cni-plugin",
			deny: []string{
				"tortie/felix", "tortie/bgpd", "tortie/calicoctl", "tortie/kube-controllers", "tortie/ipam", "tortie/tests", "tortie/internal/datastore",
				"tortie/internal/kernel", "google.golang.org/grpc", "k8s.io",
			},
			why: "the plugin is a thin client: every byte is paid for at each pod start",
		},
	}
}

// goFile is one Go source file of the repository.
type goFile struct {
	path, pkg string // repository path, import path
	ast       *ast.File
	test      bool
}

func parseAll(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files = append(files, goFile{
			path: rel, pkg: filepath.Join("tortie", filepath.Dir(rel)), ast: f,
			test: strings.HasSuffix(path, "_test.go"),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("found only %d Go files: is the root right?", len(files))
	}
	return files
}

func below(pkg, prefix string) bool { return pkg == prefix || strings.HasPrefix(pkg, prefix+"/") }

func TestImportsGoDownOnly(t *testing.T) {
	for _, f := range parseAll(t) {
		if f.test {
			continue
		}
		for _, spec := range f.ast.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			for _, r := range rules() {
				if below(f.pkg, r.from) && denied(r, f.pkg, imported) {
					t.Errorf("%s imports %s: %s", f.path, imported, r.why)
				}
			}
		}
	}
}

func denied(r rule, pkg, imported string) bool {
	for _, e := range r.except {
		if below(pkg, e) {
			return false
		}
	}
	for _, a := range r.allow {
		if below(imported, a) {
			return false
		}
	}
	for _, d := range r.deny {
		// A standard package is denied alone (net, but not net/netip); a module's or
		// ours with everything below it.
		if imported == d || strings.Contains(d, "/") && strings.Contains(d, ".") && below(imported, d) ||
			strings.HasPrefix(d, "tortie/") && below(imported, d) || d == "k8s.io" && below(imported, d) {
			return true
		}
	}
	return false
}

func TestEveryPackageHasExactlyOneComment(t *testing.T) {
	comments := map[string][]string{}
	packages := map[string]bool{}
	for _, f := range parseAll(t) {
		if f.test && strings.HasSuffix(f.ast.Name.Name, "_test") {
			continue
		}
		packages[f.pkg] = true
		if f.ast.Doc != nil && !isGenerated(f) {
			comments[f.pkg] = append(comments[f.pkg], f.path)
		}
	}
	for pkg := range packages {
		if n := len(comments[pkg]); n != 1 {
			t.Errorf("package %s has %d package comments %v, want 1", pkg, n, comments[pkg])
		}
	}
}

func isGenerated(f goFile) bool { return ast.IsGenerated(f.ast) }

func TestNoInitFunctions(t *testing.T) {
	for _, f := range parseAll(t) {
		if isGenerated(f) {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init(): what it does belongs into a constructor", f.path)
			}
		}
	}
}

// TestPurePackagesDoNotReadTheClock holds calc, topology and filter to their
// input: whatever they need to know of the time is handed to them.
func TestPurePackagesDoNotReadTheClock(t *testing.T) {
	pure := []string{"tortie/felix/calc", "tortie/bgpd/topology", "tortie/bgpd/filter", "tortie/bgpd/bfd", "tortie/internal/selector", "tortie/internal/delta", "tortie/internal/overlay", "tortie/internal/api", "tortie/kube-controllers/convert", "tortie/internal/podendpoint"}
	clock := regexp.MustCompile(`^(Now|Since|Until|Sleep|After|AfterFunc|Tick|NewTimer|NewTicker)$`)
	for _, f := range parseAll(t) {
		isPure := false
		for _, p := range pure {
			isPure = isPure || below(f.pkg, p)
		}
		if !isPure || f.test || below(f.pkg, "tortie/bgpd/bfd/server") { // which has the clock that bfd is told
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && clock.MatchString(sel.Sel.Name) {
					t.Errorf("%s uses time.%s: pure packages take the time from the caller", f.path, sel.Sel.Name)
				}
			}
			return true
		})
	}
}

// TestOneHelperAloneSkips: a test that can't run says which feature is missing
// (kerneltest.Require), and none passes by giving up before it has tried anything.
func TestOneHelperAloneSkips(t *testing.T) {
	for _, f := range parseAll(t) {
		if f.pkg == "tortie/internal/kernel/kerneltest" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if sel, ok := n.Fun.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
					t.Errorf("%s calls %s: a test is skipped by kerneltest.Require alone", f.path, sel.Sel.Name)
				}
			case *ast.IfStmt:
				if asks := asksWhereItRuns(n.Cond); f.test && asks != "" && givesUp(n.Body) {
					t.Errorf("%s returns because of %s: a test that can't run is skipped by kerneltest.Require, one that is not wanted is left out by its name (-skip)", f.path, asks)
				}
			}
			return true
		})
	}
}

// asksWhereItRuns names what a condition asks of the machine or of how the tests are run.
func asksWhereItRuns(condition ast.Expr) (asks string) {
	ast.Inspect(condition, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			switch x, _ := sel.X.(*ast.Ident); {
			case x == nil:
			case x.Name == "kerneltest" && sel.Sel.Name == "Has", x.Name == "feature" && sel.Sel.Name == "Probe", x.Name == "testing" && sel.Sel.Name == "Short":
				asks = x.Name + "." + sel.Sel.Name
			}
		}
		return true
	})
	return asks
}

// givesUp: it ends in a return of nothing.
func givesUp(body *ast.BlockStmt) bool {
	if len(body.List) == 0 {
		return false
	}
	last, ok := body.List[len(body.List)-1].(*ast.ReturnStmt)
	return ok && len(last.Results) == 0
}

// TestFelixAndBgpdAskOneFunctionWhatCarriesABlock, overlay.View.To: felix for the routes
// into tunnels, bgpd for those that BGP brings, so that no block has two of them, or none.
// Neither knows what a pool's mode means; only the first pools' is written, by registration.
func TestFelixAndBgpdAskOneFunctionWhatCarriesABlock(t *testing.T) {
	const decides = "tortie/internal/overlay"
	asked := map[string]bool{}
	for _, f := range parseAll(t) {
		if f.test || f.pkg == decides {
			continue
		}
		imports := slices.ContainsFunc(f.ast.Imports, func(i *ast.ImportSpec) bool { return strings.Trim(i.Path.Value, `"`) == decides })
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if sel, ok := n.Fun.(*ast.SelectorExpr); ok && imports && sel.Sel.Name == "To" && len(n.Args) == 2 {
					asked[f.pkg] = true
				}
			case *ast.SelectorExpr:
				if (below(f.pkg, "tortie/felix") || below(f.pkg, "tortie/bgpd")) && f.pkg != "tortie/felix/registration" && modeOfPool(n.Sel.Name) {
					t.Errorf("%s reads the pool's mode %s: what carries a block is for %s to say", f.path, n.Sel.Name, decides)
				}
			}
			return true
		})
	}
	for _, pkg := range []string{"tortie/felix/calc", "tortie/bgpd/filter"} {
		if !asked[pkg] {
			t.Errorf("%s does not ask %s what carries a block", pkg, decides)
		}
	}
}

func modeOfPool(name string) bool {
	return slices.Contains([]string{"VXLANModeAlways", "VXLANModeCrossSubnet", "IPIPModeAlways", "IPIPModeCrossSubnet"}, name)
}

// named is a path of this repository in a Markdown page: in backticks or as a
// link's target.
var named = regexp.MustCompile("`([A-Za-z0-9_.][A-Za-z0-9_./-]*)`|\\]\\(([^)#: ]+)\\)")

func TestEveryPathNamedInAPageExists(t *testing.T) {
	pages := tracked(t, "*.md")
	if len(pages) == 0 {
		t.Fatal("no Markdown page found")
	}
	top := map[string]bool{}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		top[e.Name()] = true
	}
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			path, link := m[1], m[2]
			if link != "" {
				mustExist(t, page, filepath.Join(filepath.Dir(page), link))
				continue
			}
			first, _, slash := strings.Cut(path, "/")
			if slash && top[first] && first != "bin" {
				mustExist(t, page, path)
			}
		}
	}
}

// promise is the name of a test in a page; a name that ends in an ellipsis stands for
// all that begin so.
var promise = regexp.MustCompile(`\b((?:Test|Benchmark|Fuzz)[A-Z][A-Za-z0-9_]*)(…?)`)

// TestEveryTestNamedInAPageExists: a page that says by which test something is shown must
// not go on saying so when the test has another name.
func TestEveryTestNamedInAPageExists(t *testing.T) {
	var tests []string
	for _, f := range parseAll(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test {
				tests = append(tests, fn.Name.Name)
			}
		}
	}
	for _, page := range tracked(t, "*.md") {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range promise.FindAllStringSubmatch(string(text), -1) {
			name, more := m[1], m[2] != ""
			if !slices.ContainsFunc(tests, func(test string) bool { return test == name || more && strings.HasPrefix(test, name) }) {
				t.Errorf("%s names %s, and there is no such test", page, name)
			}
		}
	}
}

func mustExist(t *testing.T, page, path string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(root, path)); err != nil {
		t.Errorf("%s names %s, which does not exist", page, path)
	}
}

// tracked lists the repository's files that match a pattern: tracked or new, not ignored.
func tracked(t *testing.T, pattern string) []string {
	t.Helper()
	out, err := exec.Command("git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard", pattern).Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	return strings.Fields(string(out))
}

func TestTopLevelHoldsOnlyWhatTheArchitectureNames(t *testing.T) {
	allowed := map[string]bool{}
	for _, n := range strings.Fields(`felix bgpd ipam cni-plugin calicoctl kube-controllers manifests tests internal docs
		go.mod go.sum Makefile README.md DESIGN.md LICENSE .ci .gitignore`) {
		allowed[n] = true
	}
	for _, f := range tracked(t, "*") {
		first, _, _ := strings.Cut(f, "/")
		if !allowed[first] {
			t.Errorf("%s: %q is new at the top level; give it a place in the folders of DESIGN.md", f, first)
		}
	}
}
