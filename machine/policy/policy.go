// Package policy decides which commands of the host a guest may have run. Nothing
// is allowed until a rule says so, and rules are made on the host alone: they are
// in a file of stile's own, which no share shows, and are read at each request.
//
// # What a rule is about
//
// A rule names a program by the path at which its maker found it, and by where
// that path's symbolic links led at the time. A guest asks for a name or an
// absolute path; a name stands for the rules whose path ends in it, so that no
// PATH is searched on a guest's behalf. A program whose path leads elsewhere by now,
// or that the guest could have put there by way of a share, is refused (Check).
//
// # Which rule decides
//
// Of the rules that fit, the most particular: one with a pattern of arguments
// before one without, then one of a distro before one of all. Of two that are
// equally particular the stricter: deny, ask, allow.
package policy

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// An Action is what a rule says.
type Action string

// The actions, strictest last.
const (
	Allow Action = "allow"
	Ask   Action = "ask"
	Deny  Action = "deny"
)

// UnmarshalText accepts the actions' names only.
func (a *Action) UnmarshalText(text []byte) error {
	switch v := Action(text); v {
	case Allow, Ask, Deny:
		*a = v
		return nil
	}
	return fmt.Errorf("action %q: choose allow, ask or deny", text)
}

func (a Action) strictness() int { return slices.Index([]Action{Allow, Ask, Deny}, a) }

// A Rule is about one program of the host.
type Rule struct {
	Action Action `json:"action"`
	Path   string `json:"path"`             // absolute and clean: where it was found
	Real   string `json:"real"`             // where that path's symlinks led then
	Args   string `json:"args,omitempty"`   // pattern of arguments (MatchArgs), "" if AnyArgs
	Distro string `json:"distro,omitempty"` // "" is all distros

	AnyArgs bool     `json:"anyArgs"`          // there is no pattern
	Shared  bool     `json:"shared,omitempty"` // it may lie where guests can write
	Env     []string `json:"env,omitempty"`    // variables of the guest's that it gets
}

// Name is what guests call the program.
func (r *Rule) Name() string { return filepath.Base(r.Path) }

// same reports whether two rules are about the same calls, so that the newer
// replaces the older.
func (r *Rule) same(o *Rule) bool {
	return r.Path == o.Path && r.Distro == o.Distro && r.AnyArgs == o.AnyArgs && r.Args == o.Args
}

// fits reports whether the rule is about a call, its arguments apart.
func (r *Rule) fits(q *Request) bool {
	if r.Distro != "" && r.Distro != q.Distro {
		return false
	}
	if !strings.Contains(q.Command, "/") {
		return r.Name() == q.Command
	}
	return r.Path == filepath.Clean(q.Command)
}

// particular orders rules by how particular they are.
func (r *Rule) particular() int {
	n := 0
	if !r.AnyArgs {
		n += 2
	}
	if r.Distro != "" {
		n++
	}
	return n
}

// A Policy is all rules, and what else is set for host commands.
type Policy struct {
	Helper []string // program, with arguments, that asks the user; empty: what the desktop has
	Rules  []Rule
	Links  []Link
}

// A Link is a host command's name on the guests' PATH.
type Link struct {
	Name   string `json:"name"`
	Distro string `json:"distro,omitempty"` // "" is all distros
}

// A Request is what a guest asks for. All of it is the guest's word, but for the
// distro.
type Request struct {
	Distro  string
	Command string   // a name, or an absolute path
	Args    []string // without argv[0]
}

// A Decision is what the rules say of a request.
type Decision struct {
	Action Action
	Rule   *Rule  // that decided; nil if none fits
	Why    string // of Deny, for the user
}

// Decide finds the rule for a request.
func (p *Policy) Decide(q *Request) Decision {
	var best *Rule
	named := false
	for i := range p.Rules {
		r := &p.Rules[i]
		if !r.fits(q) {
			continue
		}
		named = true
		if !r.AnyArgs && !MatchArgs(r.Args, q.Args) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(r.particular(), best.particular()),
			cmp.Compare(r.Action.strictness(), best.Action.strictness())) > 0 {
			best = r
		}
	}
	switch {
	case best == nil && named:
		return Decision{Action: Deny, Why: "not allowed with these arguments"}
	case best == nil:
		return Decision{Action: Deny, Why: "not allowed"}
	case best.Action == Deny:
		return Decision{Deny, best, "denied"}
	}
	// A program that is denied as such is denied behind each of its names.
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.Action == Deny && r.AnyArgs && r.Path == r.Real && r.Real == best.Real && r.Path != best.Path &&
			(r.Distro == "" || r.Distro == q.Distro) {
			return Decision{Deny, r, "denied, as " + r.Path + " is"}
		}
	}
	return Decision{best.Action, best, ""}
}

// Set puts a rule in the place of one for the same calls, or at the end.
func (p *Policy) Set(r Rule) {
	for i := range p.Rules {
		if p.Rules[i].same(&r) {
			p.Rules[i] = r
			return
		}
	}
	p.Rules = append(p.Rules, r)
}

// LinksOf are the names that a distro has on its PATH, sorted.
func (p *Policy) LinksOf(distro string) []string {
	var names []string
	for _, l := range p.Links {
		if l.Distro == "" || l.Distro == distro {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
