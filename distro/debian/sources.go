package debian

import (
	"bufio"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A source is one entry of apt's sources for binary packages.
type source struct {
	uris       []string
	suites     []string
	components []string
	signedBy   string // path of a keyring, or ""
}

// readSources reads /etc/apt/sources.list and sources.list.d below root, in
// both formats (sources.list(5)).
func readSources(root string) ([]source, error) {
	var list []source
	read := func(file string, parse func(string) []source) error {
		data, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		list = append(list, parse(string(data))...)
		return nil
	}
	dir := filepath.Join(root, "etc/apt")
	if err := read(filepath.Join(dir, "sources.list"), parseOneLine); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(dir, "sources.list.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		parse := parseOneLine
		switch filepath.Ext(e.Name()) {
		case ".list":
		case ".sources":
			parse = parseDeb822
		default:
			continue // apt passes over them too
		}
		if err := read(filepath.Join(dir, "sources.list.d", e.Name()), parse); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// parseOneLine reads lines "deb [option=value ...] uri suite component...".
func parseOneLine(text string) []source {
	var list []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || (rest[0] != ' ' && rest[0] != '\t') {
			continue
		}
		var s source
		rest = strings.TrimSpace(rest)
		if options, after, ok := strings.Cut(rest, "]"); ok && strings.HasPrefix(options, "[") {
			for _, option := range strings.Fields(options[1:]) {
				if value, ok := strings.CutPrefix(option, "signed-by="); ok {
					s.signedBy = keyring(value)
				}
			}
			rest = after
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			continue
		}
		s.uris, s.suites, s.components = fields[:1], fields[1:2], fields[2:]
		list = append(list, s)
	}
	return list
}

// parseDeb822 reads stanzas of "Field: value", where a line that starts with
// white space goes on with the value.
func parseDeb822(text string) []source {
	var list []source
	stanza := map[string]string{}
	field := ""
	end := func() {
		types, enabled := strings.Fields(stanza["types"]), strings.ToLower(stanza["enabled"])
		if slices.Contains(types, "deb") && !slices.Contains([]string{"no", "false", "0", "off", "without"}, enabled) {
			list = append(list, source{
				uris:       strings.Fields(stanza["uris"]),
				suites:     strings.Fields(stanza["suites"]),
				components: strings.Fields(stanza["components"]),
				signedBy:   keyring(stanza["signed-by"]),
			})
		}
		clear(stanza)
		field = ""
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), " \t\r")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			end()
		case line[0] == ' ' || line[0] == '\t':
			if field != "" {
				stanza[field] += "\n" + strings.TrimSpace(line)
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				continue
			}
			field = strings.ToLower(strings.TrimSpace(name))
			stanza[field] = strings.TrimSpace(value)
		}
	}
	end()
	return list
}

// keyring is the first keyring file of a Signed-By value, "" if it holds
// fingerprints or a key itself.
func keyring(value string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(value), ",")
	if first = strings.TrimSpace(first); filepath.IsAbs(first) && !strings.ContainsAny(first, " \n") {
		return first
	}
	return ""
}

// A mirror is where a Debian archive is to be had.
type mirror struct {
	uri      string // without a slash at the end
	signedBy string
}

// mirrors picks, from apt's sources, the mirror of Debian's main archive and
// that of its security archive. Either is empty if apt has none, as on other
// distributions.
func mirrors(list []source) (archive, security mirror) {
	for _, s := range list {
		if !slices.Contains(s.components, "main") {
			continue
		}
		for _, uri := range s.uris {
			u, err := url.Parse(uri)
			if err != nil || u.Scheme == "" {
				continue // cdrom:[...], mirror+file:, and the like have no place here
			}
			switch u.Scheme {
			case "http", "https", "file", "copy":
			default:
				continue
			}
			m := mirror{strings.TrimRight(uri, "/"), s.signedBy}
			// A Debian archive is known by the folder's name, which mirrors keep,
			// or by its keyring.
			name := path.Base(strings.TrimRight(u.Path, "/"))
			signed := strings.HasPrefix(filepath.Base(s.signedBy), "debian-archive")
			for _, suite := range s.suites {
				isSecurity := name == "debian-security" || strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates")
				switch {
				case isSecurity && (name == "debian-security" || signed) && security.uri == "":
					security = m
				case !isSecurity && (name == "debian" || signed) && archive.uri == "":
					archive = m
				}
			}
		}
	}
	return archive, security
}
