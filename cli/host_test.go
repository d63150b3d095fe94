package cli

import (
	"slices"
	"testing"

	"github.com/stilehq/stile/completions"
	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/machine/policy"
)

// What there is to take back is completed.
func TestCompleteHost(t *testing.T) {
	dir := t.TempDir()
	a := &app{store: distro.NewStore(distro.Dirs{Config: dir + "/config", Data: dir + "/data", Home: dir})}
	err := policy.Change(a.store.Dirs.HostPath(), func(p *policy.Policy) error {
		p.Set(policy.Rule{Action: policy.Allow, Path: "/usr/bin/gh", Real: "/usr/bin/gh", AnyArgs: true})
		p.Links = []policy.Link{{Name: "code"}, {Name: "gh"}}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		words []string
		want  []string // nil: file names
	}{
		{[]string{"a"}, []string{"allow", "ask"}},
		{[]string{"forget", ""}, []string{"gh"}},
		{[]string{"unlink", "c"}, []string{"code"}},
		{[]string{"list", ""}, []string{}},
		{[]string{"allow", "g"}, nil},
	} {
		words := []completions.Word{{Text: "stile"}, {Text: "host"}}
		for _, w := range tt.words {
			words = append(words, completions.Word{Text: w})
		}
		_, _, r := a.completeOwn(words)
		if r == nil || tt.want == nil {
			if r != nil || tt.want != nil {
				t.Errorf("%q: %v, want %q", tt.words, r, tt.want)
			}
			continue
		}
		got := []string{}
		for _, c := range r.Candidates {
			got = append(got, c.Text)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.words, got, tt.want)
		}
	}
}
