package distro

import (
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "0", "debian", "debian-12.5_x", strings.Repeat("n", MaxName)} {
		if err := CheckName(name); err != nil {
			t.Errorf("CheckName(%q): %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"": "it is empty", ".": `starts with "."`, "..": `starts with "."`, "-rf": `starts with "-"`, "_x": `starts with "_"`,
		"a/b": `has '/' in it`, "Debian": `has 'D' in it`, "a b": `has ' ' in it`, "a\nb": `has '\n' in it`, "a\x00": `has '\x00' in it`,
		"bücher": `has 'ü' in it`, "a\xff": `in it`, strings.Repeat("n", MaxName+1): "it has 41 characters, and may have 40",
	} {
		err := CheckName(name)
		wantError(t, err, want)
		wantHint(t, err)
	}
}

// A socket's path has 107 bytes at most, of which name and folder take theirs.
func TestNameFitsSocketPath(t *testing.T) {
	const name = "debian"
	room := maxSocketPath - len("/"+name+"/socket")
	d := Dirs{Runtime: "/" + strings.Repeat("r", room-1)}
	if n := len(d.SocketPath(name)); n != 107 {
		t.Fatalf("the test's path has %d bytes", n)
	}
	if err := d.CheckName(name); err != nil {
		t.Errorf("a path of 107 bytes: %v", err)
	}
	d.Runtime += "r"
	err := d.CheckName(name)
	wantError(t, err, "its socket's path would have 108 bytes, and a socket's path may have 107: "+d.Runtime)
	wantHint(t, err)
}
