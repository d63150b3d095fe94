package completions

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// maxFiles is how many file names one answer holds.
const maxFiles = 20000

// List lists the host's files that continue cur, in dir: folders with a slash at
// the end, and files that the pattern wants. A name in a folder keeps the folder
// as it was written. What can't be read is as good as empty.
func (f Files) List(dir, cur string) []string {
	head, base := cur[:strings.LastIndexByte(cur, '/')+1], cur[strings.LastIndexByte(cur, '/')+1:]
	at := head
	if !filepath.IsAbs(head) {
		at = filepath.Join(dir, head)
	}
	folder, err := os.Open(at)
	if err != nil {
		return nil
	}
	defer folder.Close()
	entries, _ := folder.ReadDir(maxFiles)
	wanted := f.matcher()
	var list, others []string
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, base) {
			continue
		}
		isDir := e.IsDir()
		if e.Type()&os.ModeSymlink != 0 {
			info, err := os.Stat(filepath.Join(at, name))
			isDir = err == nil && info.IsDir()
		}
		switch {
		case isDir:
			list = append(list, head+name+"/")
		case f.Dirs:
		case wanted == nil || wanted.MatchString(name):
			list = append(list, head+name)
		default:
			others = append(others, head+name)
		}
	}
	// As bash-completion does where its COMP_FILEDIR_FALLBACK is on, for a name
	// that has been begun: a file of another kind is better than none.
	if len(list) == 0 && base != "" {
		list = others
	}
	slices.Sort(list)
	return list
}

// matcher matches names of files that end in ".PATTERN" or ".PATTERN" in capitals,
// which is what _filedir makes of its argument. It is nil if every name does, and
// if the pattern is one that can't be said in a regular expression.
func (f Files) matcher() *regexp.Regexp {
	if f.Pattern == "" || f.Dirs {
		return nil
	}
	re, ok := globRegexp(f.Pattern)
	if !ok {
		return nil
	}
	m, err := regexp.Compile(`\.(?:` + re + `|` + "(?i:" + re + ")" + `)$`)
	if err != nil {
		return nil
	}
	return m
}

// globRegexp translates an extended glob of bash, without !(...).
func globRegexp(glob string) (string, bool) {
	var b strings.Builder
	var ends []string
	for i := 0; i < len(glob); i++ {
		c := glob[i]
		group := i+1 < len(glob) && glob[i+1] == '('
		switch {
		case group && strings.IndexByte("?*+@", c) >= 0:
			b.WriteString("(?:")
			ends = append(ends, map[byte]string{'?': ")?", '*': ")*", '+': ")+", '@': ")"}[c])
			i++
		case group && c == '!':
			return "", false
		case c == ')' && len(ends) > 0:
			b.WriteString(ends[len(ends)-1])
			ends = ends[:len(ends)-1]
		case c == '|' && len(ends) > 0:
			b.WriteByte('|')
		case c == '*':
			b.WriteString(".*")
		case c == '?':
			b.WriteByte('.')
		case c == '[':
			end := strings.IndexByte(glob[i+1:], ']')
			if end <= 0 {
				b.WriteString(`\[`)
				break
			}
			set := glob[i+1 : i+1+end]
			if set[0] == '!' {
				set = "^" + set[1:]
			}
			b.WriteString("[" + strings.ReplaceAll(set, `\`, `\\`) + "]")
			i += end + 1
		case c == '\\' && i+1 < len(glob):
			i++
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	return b.String(), len(ends) == 0
}
