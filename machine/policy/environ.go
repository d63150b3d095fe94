package policy

import "strings"

// Never are the variables that a host command never gets from a guest, whatever a
// rule names: what they hold is executed, loaded, or says where to find what is. A *
// at an end stands for any letters. docs/interop.md has the same list.
var Never = []string{
	"LD_*", "DYLD_*", "GLIBC_TUNABLES", "GCONV*", "MALLOC_*", "*PRELOAD*", "*PATH", "*PATH_*",
	"HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "TMPDIR", "XDG_*",
	"ENV", "BASH*", "SHELLOPTS", "IFS", "PS1", "PS2", "PS4", "PROMPT*", "ZDOTDIR", "FPATH", "FCEDIT", "fish_*",
	"GIT_*", "SSH_*", "RSYNC_*", "CVS_*", "SVN_*", "HG*", "GH_*", "SUDO_*", "*ASKPASS*",
	"*EDITOR", "VISUAL", "*PAGER", "LESS*", "MANOPT", "MANROFFOPT", "BROWSER", "TERMINFO*", "TERMCAP", "*_COMMAND", "*_CMD",
	"PYTHON*", "PERL*", "RUBY*", "NODE_*", "NPM_*", "npm_*", "JAVA*", "_JAVA*", "JDK_*", "LUA_*", "PHP*", "ERL_*", "TCL*", "R_*", "GUILE_*",
	"GO*", "CGO_*", "CARGO_*", "RUST*", "CC", "CXX", "LD", "AR", "AS", "CPP", "*FLAGS", "MAKE*", "CMAKE_*",
	"DBUS_*", "DISPLAY", "WAYLAND_*", "XAUTHORITY", "GTK_*", "GDK_*", "GIO_*", "QT_*", "QML*", "GST_*", "ELECTRON_*", "VSCODE_*", "CHROME_*", "MOZ_*",
	"DOCKER_*", "KUBE*", "AWS_*", "GNUPGHOME", "GPG_*", "OPENSSL_*", "SSL_*", "CURL_*", "WGETRC", "NIX_*", "PKG_*",
	"HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS", "TZDIR", "LOCPATH", "NLSPATH", "*_proxy", "*_PROXY",
	"NOTIFY_SOCKET", "LISTEN_*", "STILE_*",
}

// IsNever reports whether a variable is on the list.
func IsNever(name string) bool {
	for _, p := range Never {
		if matchWord(p, name) {
			return true
		}
	}
	return false
}

// described are variables that say what the guest's terminal is like: they come from
// there, where they are plain words.
var described = []string{"TERM", "COLORTERM", "NO_COLOR"}

// login are the variables of the host's that a host command gets: those that a login
// or a desktop's session sets. The others are those of the shell that happened to
// start the machine: a GIT_DIR that a hook had set there must not reach each git.
var login = []string{
	"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "MAIL", "EDITOR", "VISUAL", "PAGER", "BROWSER",
	"XDG_*", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "DESKTOP_SESSION", "GNOME_*", "KDE_*",
	"SSH_AUTH_SOCK", "GNUPGHOME", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
}

// Environ is a host command's environment: of the host's own what a login sets, and
// of the guest's what describes its terminal, and what the rule names. A folder of
// PATH for which skip is true is left out.
func Environ(host, guest, named []string, skip func(dir string) bool) []string {
	var env []string
	have := map[string]bool{}
	put := func(name, value string) {
		if !have[name] {
			have[name] = true
			env = append(env, name+"="+value)
		}
	}
	for _, e := range guest {
		name, value, ok := strings.Cut(e, "=")
		switch {
		case !ok || IsNever(name):
		case matchAny(described, name) && plain(value), contains(named, name):
			put(name, value)
		}
	}
	for _, e := range host {
		name, value, ok := strings.Cut(e, "=")
		if !ok || !matchAny(login, name) {
			continue
		}
		if name == "PATH" {
			var dirs []string
			for dir := range strings.SplitSeq(value, ":") {
				if strings.HasPrefix(dir, "/") && !skip(dir) {
					dirs = append(dirs, dir)
				}
			}
			value = strings.Join(dirs, ":")
		}
		put(name, value)
	}
	return env
}

func matchAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if matchWord(p, name) {
			return true
		}
	}
	return false
}

func contains(list []string, name string) bool {
	for _, s := range list {
		if s == name {
			return true
		}
	}
	return false
}

// plain reports whether a value is a short word that no program takes for more.
func plain(value string) bool {
	if len(value) > 64 {
		return false
	}
	for i := range len(value) {
		c := value[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("+._-", c) >= 0) {
			return false
		}
	}
	return true
}
