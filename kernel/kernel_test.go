package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindNotBuilt(t *testing.T) {
	cache := t.TempDir()
	_, err := Find(cache)
	missing, ok := errors.AsType[*NotBuiltError](err)
	if !ok {
		t.Fatalf("error %v, want a *NotBuiltError", err)
	}
	if missing.Version != Version() || missing.Hint() != "make kernel" {
		t.Errorf("version %q, hint %q", missing.Version, missing.Hint())
	}
	for _, want := range []string{Version(), cache, "make kernel"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func TestFind(t *testing.T) {
	cache := t.TempDir()
	want := filepath.Join(cache, "kernels", Version()+"-"+Guest.Key()[:12], "vmlinux")
	if err := os.MkdirAll(filepath.Dir(want), 0o700); err != nil {
		t.Fatal(err)
	}
	if Dir(cache) != filepath.Dir(want) {
		t.Errorf("Dir is %s, want %s", Dir(cache), filepath.Dir(want))
	}
	if err := os.WriteFile(want, []byte("kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(cache); err != nil || got != want {
		t.Errorf("Find: %q, %v; want %q", got, err, want)
	}
}

// A folder in the kernel's place is neither a kernel nor a missing one.
func TestFindNoFile(t *testing.T) {
	cache := t.TempDir()
	if err := os.MkdirAll(filepath.Join(Dir(cache), "vmlinux"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Find(cache)
	if _, missing := errors.AsType[*NotBuiltError](err); err == nil || missing {
		t.Errorf("error %v", err)
	}
}

func TestKey(t *testing.T) {
	key := Guest.Key()
	if len(key) != 64 || key != Guest.Key() {
		t.Errorf("key %q is not a stable sha256", key)
	}
	if len(Guest.Fragments()) == 0 || len(Guest.Patches()) == 0 {
		t.Error("no fragments or no patches are embedded")
	}
}

// What a comment says must not cost a build; what it comments must.
func TestWithoutComments(t *testing.T) {
	for _, c := range []struct{ a, b string }{
		{"CONFIG_A=y # why\n", "# head\n\nCONFIG_A=y   # a better reason\n"},
		{"CONFIG_A=\"a#b\" # why\n", "CONFIG_A=\"a#b\" # no\n"},
		{"CONFIG_A=y#x\n", "CONFIG_A=y#x\n"},
	} {
		if withoutComments(c.a) != withoutComments(c.b) {
			t.Errorf("%q and %q differ", c.a, c.b)
		}
	}
	for _, c := range []struct{ a, b string }{
		{"CONFIG_A=y # why\n", "CONFIG_A=n # why\n"},
		{"CONFIG_A=\"a#b\" # why\n", "CONFIG_A=\"a#c\" # why\n"},
		{"CONFIG_A=y#x\n", "CONFIG_A=y\n"},
	} {
		if withoutComments(c.a) == withoutComments(c.b) {
			t.Errorf("%q and %q are the same", c.a, c.b)
		}
	}
}

func TestWithoutHeader(t *testing.T) {
	const body = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n"
	for _, text := range []string{body, "Subject: x\n\nwhy\n\n" + body, "Subject: y\n" + body} {
		if got := withoutHeader(text); got != body {
			t.Errorf("of %q remains %q", text, got)
		}
	}
}

// The outer kernel of the nested lane is the guest's and more, and no edit of
// what it alone has makes another guest kernel.
func TestL1(t *testing.T) {
	if L1.Key() == Guest.Key() || L1.Dir("c") == Guest.Dir("c") || !strings.Contains(L1.Dir("c"), "-l1-") {
		t.Errorf("folders %s and %s", L1.Dir("c"), Guest.Dir("c"))
	}
	for _, all := range []struct{ guest, l1 []File }{
		{Guest.Fragments(), L1.Fragments()}, {Guest.Patches(), L1.Patches()},
	} {
		if len(all.l1) <= len(all.guest) {
			t.Fatalf("%d files, the guest has %d", len(all.l1), len(all.guest))
		}
		for i, f := range all.guest {
			if all.l1[i] != f {
				t.Errorf("%s is not the guest's %s", all.l1[i].Name, f.Name)
			}
			if strings.Contains(f.Name, "l1") {
				t.Errorf("the guest's kernel has %s", f.Name)
			}
		}
	}
}
