package agent

import (
	"bytes"
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/users"
)

// fallbackLocale is in every libc that is in use.
const fallbackLocale = "C.UTF-8"

// fixLocales replaces the caller's locales that the distro lacks: programs would
// complain, and take what is typed for bytes of ASCII. Only what says UTF-8 is
// replaced; the rest has no better meaning.
func fixLocales(env []string, files users.Files) {
	known := make(map[string]bool)
	for i, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if name != "LANG" && (!strings.HasPrefix(name, "LC_") || name == "LC_") {
			continue
		}
		base, ok := utf8Base(value)
		if !ok {
			continue
		}
		have, asked := known[base]
		if !asked {
			have = hasLocale(files, base)
			known[base] = have
		}
		if !have {
			env[i] = name + "=" + fallbackLocale
		}
	}
}

// utf8Base is a locale's name in the form that glibc stores it, "de_DE.utf8", if its
// encoding is UTF-8 and it is not one that is built in.
func utf8Base(value string) (string, bool) {
	language, codeset, ok := strings.Cut(value, ".")
	codeset, modifier, _ := strings.Cut(codeset, "@")
	codeset = strings.ToLower(strings.ReplaceAll(codeset, "-", ""))
	if !ok || codeset != "utf8" || language == "C" || language == "POSIX" || strings.Contains(language, "/") || strings.Contains(modifier, "/") {
		return "", false
	}
	base := language + ".utf8"
	if modifier != "" {
		base += "@" + modifier
	}
	return base, true
}

// hasLocale reports whether the distro's libc finds a locale: in a folder of its
// own, or in glibc's archive (struct locarhead in its locale/locarchive.h).
func hasLocale(files users.Files, base string) bool {
	if f, err := files("/usr/lib/locale/"+base, unix.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
		f.Close()
		return true
	}
	f, err := files("/usr/lib/locale/locale-archive", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	const (
		magic      = 0xde020109
		offStrings = 5 * 4 // string_offset, then string_used
		maxStrings = 1 << 20
	)
	var head [7 * 4]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || binary.LittleEndian.Uint32(head[:]) != magic {
		return false
	}
	at, used := binary.LittleEndian.Uint32(head[offStrings:]), binary.LittleEndian.Uint32(head[offStrings+4:])
	names := make([]byte, min(used, maxStrings))
	n, _ := f.ReadAt(names, int64(at))
	return bytes.Contains(append([]byte{0}, names[:n]...), []byte("\x00"+base+"\x00"))
}
