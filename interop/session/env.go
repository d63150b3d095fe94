package session

import (
	"path/filepath"
	"slices"
	"strings"
)

// blocked are the variables that never cross into the guest: what they name is
// the host's alone, and a guest program that believed them would fail.
var blocked = map[string]string{
	"LD_PRELOAD":               "libraries of the host",
	"LD_LIBRARY_PATH":          "libraries of the host",
	"LD_AUDIT":                 "libraries of the host",
	"XDG_RUNTIME_DIR":          "sockets of the host's session",
	"DBUS_SESSION_BUS_ADDRESS": "a socket of the host's session",
	"WAYLAND_DISPLAY":          "a socket of the host's session",
	"SSH_AUTH_SOCK":            "a socket of the host's session",
	"GPG_AGENT_INFO":           "a socket of the host's session",
	"NOTIFY_SOCKET":            "a socket of the host's service manager",
	"LISTEN_FDS":               "descriptors of the host's service manager",
	"STILE_ENGINE":             "stile's own, of the host",
	"LISTEN_PID":               "descriptors of the host's service manager",
}

// guestPath are the folders in which a guest command is looked for besides those
// of the caller's PATH: a caller under cron, or a host with another layout,
// leaves out what every Linux has.
var guestPath = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// GuestEnv is env as a guest command gets it: whole, byte for byte, but for the
// variables that make no sense there, and with a PATH that lacks the folder of
// the links (which would lead back here) and has the standard folders at its
// end, and after them last, the folder of host commands, unless it is "".
func GuestEnv(env []string, links, last string) []string {
	out := make([]string, 0, len(env)+1)
	path := false
	for _, e := range env {
		name, value, ok := strings.Cut(e, "=")
		if ok && blocked[name] != "" {
			continue
		}
		if ok && name == "PATH" && !path {
			path = true
			e = "PATH=" + mergePath(value, links, last)
		}
		out = append(out, e)
	}
	if !path {
		out = append(out, "PATH="+mergePath("", links, last))
	}
	return out
}

func mergePath(path, links, last string) string {
	var dirs []string
	have := make(map[string]bool)
	for _, dir := range filepath.SplitList(path) {
		if dir == "" || filepath.Clean(dir) == links || dir == last {
			continue
		}
		have[dir] = true
		dirs = append(dirs, dir)
	}
	for _, dir := range guestPath {
		if !have[dir] {
			dirs = append(dirs, dir)
		}
	}
	if last != "" {
		dirs = append(dirs, last)
	}
	return strings.Join(dirs, ":")
}

// SetBrowser makes what opens URLs the host's: $BROWSER is the link to its xdg-open,
// where a guest has one. The host's own $BROWSER is no command there.
func SetBrowser(env, links []string) []string {
	const opener = "xdg-open"
	if !slices.Contains(links, opener) {
		return env
	}
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		if !strings.HasPrefix(e, "BROWSER=") {
			out = append(out, e)
		}
	}
	return append(out, "BROWSER="+opener)
}

// isolatedEnv are the variables that cross into an isolated distro: what a terminal
// and a locale are like, and who the user is.
var isolatedEnv = []string{"TERM", "COLORTERM", "NO_COLOR", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "HOME", "SHELL", "PWD"}

// IsolatedEnv is env as a command of an isolated distro gets it.
func IsolatedEnv(env []string) []string {
	var out []string
	for _, e := range env {
		name, _, ok := strings.Cut(e, "=")
		if ok && (slices.Contains(isolatedEnv, name) || strings.HasPrefix(name, "LC_")) {
			out = append(out, e)
		}
	}
	return append(out, "PATH="+mergePath("", "", ""))
}
