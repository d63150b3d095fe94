package boot

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// The real cpio is the judge of the format.
func TestInitramfs(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Fatal("cpio is needed: run ./deps.sh test")
	}
	var b bytes.Buffer
	body := bytes.Repeat([]byte("x"), 12345)
	err = WriteInitramfs(&b, []File{
		{Name: "dev", Mode: TypeDir | 0o755},
		{Name: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "init", Mode: TypeFile | 0o755, Body: body},
		{Name: "a", Mode: TypeFile | 0o644, Body: []byte("odd")},
	})
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command(cpio, "-itv", "--quiet")
	list.Stdin = bytes.NewReader(b.Bytes())
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d entries:\n%s", len(lines), out)
	}
	for i, want := range []string{"drwxr-xr-x", "crw-------", "-rwxr-xr-x", "-rw-r--r--"} {
		if !strings.HasPrefix(lines[i], want) {
			t.Errorf("entry %d: %q, want %s", i, lines[i], want)
		}
	}
	get := exec.Command(cpio, "-i", "--quiet", "--to-stdout", "init")
	get.Stdin = bytes.NewReader(b.Bytes())
	if out, err := get.Output(); err != nil || !bytes.Equal(out, body) {
		t.Errorf("init: %d bytes, %v", len(out), err)
	}
}
