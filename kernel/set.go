package kernel

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// recipe counts changes of kernel/build that change what comes out of the same
// pin, fragments and patches: other make variables, another way to strip.
const recipe = 1

//go:embed pin config config-l1 patches patches-l1
var source embed.FS

// Set is a kernel: lists of folders of configuration fragments, merged in order,
// and of patches to the pinned source.
type Set struct {
	Name    string
	folders []string
	patches []string
}

// Guest is the kernel of stile's machines.
var Guest = Set{Name: "guest", folders: []string{"config"}, patches: []string{"patches"}}

// L1 is the outer kernel of the tests' nested lane (testdata/lane): a guest's
// kernel that has /dev/kvm under QEMU's TCG.
var L1 = Set{Name: "l1", folders: []string{"config", "config-l1"}, patches: []string{"patches", "patches-l1"}}

// Sets are all kernels that kernel/build can make, the default first.
func Sets() []Set { return []Set{Guest, L1} }

// File is one file of a kernel's recipe: a fragment or a patch.
type File struct {
	Name string // relative to the folder kernel/
	Text string
}

// Fragments returns the set's configuration fragments, in the order in which
// they are merged: by folder, then by name.
func (s Set) Fragments() []File {
	return listAll(s.folders, ".config")
}

// Patches returns the patches to the kernel's source, in the order in which
// they apply.
func (s Set) Patches() []File { return listAll(s.patches, ".patch") }

// Key returns the content hash of the set: it changes when the built kernel
// may. Comments, in fragments as in patches, have no part in it, so that a
// better reason does not cost a build. Nor has the compiler: any that builds
// it will do.
func (s Set) Key() string {
	h := sha256.New()
	fmt.Fprintf(h, "recipe %d\n", recipe)
	text, err := source.ReadFile("pin")
	if err != nil {
		panic(err) // embedded
	}
	fmt.Fprintf(h, "pin\n%s", withoutComments(string(text)))
	for _, f := range s.Fragments() {
		// The name only orders them: a renamed file is the same kernel.
		fmt.Fprintf(h, "fragment\n%s", withoutComments(f.Text))
	}
	for _, f := range s.Patches() {
		fmt.Fprintf(h, "patch\n%s", withoutHeader(f.Text))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// suffix sets the folders of other kernels than the guest's apart.
func (s Set) suffix() string {
	if s.Name == Guest.Name {
		return ""
	}
	return "-" + s.Name
}

func listAll(folders []string, ext string) []File {
	var files []File
	for _, folder := range folders {
		files = append(files, list(folder, ext)...)
	}
	return files
}

// list returns the embedded files of a folder with an extension, by name.
func list(folder, ext string) []File {
	entries, err := fs.ReadDir(source, folder)
	if err != nil {
		panic(err) // embedded
	}
	var files []File
	for _, e := range entries { // ReadDir sorts
		if e.IsDir() || path.Ext(e.Name()) != ext {
			continue
		}
		text, err := fs.ReadFile(source, path.Join(folder, e.Name()))
		if err != nil {
			panic(err) // embedded
		}
		files = append(files, File{Name: path.Join(folder, e.Name()), Text: string(text)})
	}
	return files
}

// withoutComments cuts what follows a # that starts a line or follows a blank,
// the rest of the blanks, and empty lines.
func withoutComments(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line, _ := CutComment(line)
		if line != "" {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// CutComment splits a line of the pin or of a fragment into what it says and
// its comment, both trimmed. A # inside of a word is no comment.
func CutComment(line string) (said, comment string) {
	for i := range len(line) {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			return strings.TrimSpace(line[:i]), strings.TrimSpace(line[i+1:])
		}
	}
	return strings.TrimSpace(line), ""
}

// withoutHeader cuts a patch's message: all before its first file.
func withoutHeader(text string) string {
	if strings.HasPrefix(text, "--- ") {
		return text
	}
	if i := strings.Index(text, "\n--- "); i >= 0 {
		return text[i+1:]
	}
	return text
}
