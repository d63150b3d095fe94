// Package kernel knows the Linux kernel that stile's guests run: which version,
// configured and patched how, and where the built image lies.
//
// It does not build anything: that is `make kernel`, the command in
// kernel/build, which takes minutes and a compiler. A built kernel is found by
// its key, a hash of everything that goes into it, so a changed configuration
// is another kernel, two checkouts share what they have in common, and nobody
// ever boots an image that does not belong to the source beside it.
//
// The package is linked into stile: it imports nothing of stile and little else.
package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// image is the file name of a built kernel: an uncompressed ELF image with a
// PVH entry, which both engines load directly.
const image = "vmlinux"

// Version returns the kernel's version, as in `uname -r` without its suffix.
func Version() string { return mustPin().Version }

// Dir returns the folder of the guest kernel that this program belongs to,
// whether it has been built or not. cacheRoot is stile's cache folder,
// $XDG_CACHE_HOME/stile.
func Dir(cacheRoot string) string { return Guest.Dir(cacheRoot) }

// Find returns the path of the built guest kernel in the cache folder. When
// there is none the error is a *NotBuiltError.
func Find(cacheRoot string) (path string, err error) { return Guest.Find(cacheRoot) }

// Dir returns the folder of the set's built kernel under the cache folder.
func (s Set) Dir(cacheRoot string) string {
	return filepath.Join(cacheRoot, "kernels", Version()+s.suffix()+"-"+s.Key()[:12])
}

// Find returns the path of the set's built kernel, or a *NotBuiltError.
func (s Set) Find(cacheRoot string) (path string, err error) {
	path = filepath.Join(s.Dir(cacheRoot), image)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", &NotBuiltError{Set: s.Name, Version: Version(), Path: path}
	case err != nil:
		return "", fmt.Errorf("find kernel: %w", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("find kernel: %s is not a file", path)
	}
	return path, nil
}

// NotBuiltError says that a kernel is not in the cache, and what to run.
type NotBuiltError struct {
	Set     string // name of the fragment set, "guest" for what stile boots
	Version string
	Path    string // where it was looked for
}

// Hint is the command that builds the missing kernel.
func (e *NotBuiltError) Hint() string {
	if e.Set == Guest.Name {
		return "make kernel"
	}
	return "go run ./kernel/build -set " + e.Set
}

func (e *NotBuiltError) Error() string {
	return fmt.Sprintf("kernel %s is not built (no %s): run %q in stile's source folder", e.Version, e.Path, e.Hint())
}
