package completions

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

//go:embed server.bash
var serverScript string

// ServerCommand is what runs in a distro to answer Server: a bash of the guest's.
func ServerCommand() []string {
	return []string{"bash", "--norc", "--noprofile", "-c", serverScript, "stile-complete"}
}

// A Request asks for the candidates of one word.
type Request struct {
	Dir     string // the current folder
	Command Command
	// HostFiles is whether file names are those of the host, so that the guest
	// only says which are wanted.
	HostFiles bool
	// Version is whether the answer is to have the version of the command.
	Version bool
}

// Files says that file names are wanted.
type Files struct {
	Dirs    bool   // folders alone
	Pattern string // of bash-completion: which extensions, as an extended glob; "" is any
	Cur     string // what is there of the name, quoted as for bash
}

// An Answer is what the guest knows about one word.
type Answer struct {
	Options    []string // as of complete -o: nospace, filenames, nosort, plusdirs, ...
	Files      []Files
	Candidates []string // as a completion function puts them into COMPREPLY
	Version    string   // size and time of the command's file; "" if it was not asked for
	Complete   bool     // false if the function did not come to its end
}

// Has reports whether the answer has an option.
func (a *Answer) Has(option string) bool {
	for _, o := range a.Options {
		if o == option {
			return true
		}
	}
	return false
}

// Limits of what a guest can have us keep.
const (
	maxField  = 64 << 10
	maxAnswer = 4 << 20
)

// errAnswer is an answer that makes no sense.
var errAnswer = errors.New("the completion server's answer makes no sense")

// A Server is a resident bash in a distro (server.bash). It answers one request
// at a time.
type Server struct {
	in  io.Writer
	out *bufio.Reader
}

// NewServer speaks to a server through its standard input and output, which stay
// the caller's to close.
func NewServer(in io.Writer, out io.Reader) *Server {
	return &Server{in: in, out: bufio.NewReaderSize(out, maxField)}
}

// Ask sends a request and reads the answer. After an error the server is of no
// use any more.
func (s *Server) Ask(r *Request) (*Answer, error) {
	code, err := r.code()
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(s.in, "%d\n%s", len(code), code); err != nil {
		return nil, fmt.Errorf("ask completion server: %w", err)
	}
	a := &Answer{}
	for left := maxAnswer; ; {
		f, err := s.field(&left)
		if err != nil {
			return nil, err
		}
		kind, text := f[0], f[1:]
		switch kind {
		case 'O':
			a.Options = append(a.Options, text)
		case 'C':
			a.Candidates = append(a.Candidates, text)
		case 'V':
			a.Version = text
		case 'F':
			w := Files{Dirs: text == "dirs"}
			if w.Pattern, err = s.rest(&left); err != nil {
				return nil, err
			}
			if w.Cur, err = s.rest(&left); err != nil {
				return nil, err
			}
			a.Files = append(a.Files, w)
		case 'E':
			a.Complete = text == "0"
			return a, nil
		default:
			return nil, errAnswer
		}
	}
}

// field reads a field that is not empty.
func (s *Server) field(left *int) (string, error) {
	f, err := s.rest(left)
	if err == nil && f == "" {
		err = errAnswer
	}
	return f, err
}

// rest reads a field.
func (s *Server) rest(left *int) (string, error) {
	b, err := s.out.ReadSlice(0)
	if err != nil {
		return "", fmt.Errorf("read from completion server: %w", err)
	}
	if *left -= len(b); *left < 0 {
		return "", errAnswer
	}
	return string(b[:len(b)-1]), nil
}

// errRequest is a command line that bash code can't hold.
var errRequest = errors.New("the command line holds a NUL byte")

// code is the request as the bash code that server.bash reads: the name on a line
// of its own.
func (r *Request) code() (string, error) {
	c := &r.Command
	if strings.Contains(c.Name, "\n") || c.Name == "" {
		return "", errors.New("the command's name has a line break in it")
	}
	var b strings.Builder
	set := func(name, value string) {
		b.WriteString("__stile_r_" + name + "=" + single(value) + "\n")
	}
	files, version := "guest", ""
	if r.HostFiles {
		files = "host"
	}
	if r.Version {
		version = "1"
	}
	set("name", c.Name)
	set("dir", r.Dir)
	set("line", c.Line)
	set("point", strconv.Itoa(c.Point))
	set("index", strconv.Itoa(c.Index))
	set("cur", c.Cur)
	set("prev", c.Prev)
	set("files", files)
	set("version", version)
	b.WriteString("__stile_r_words=(")
	for _, w := range c.Words {
		b.WriteString(single(w) + " ")
	}
	b.WriteString(")\n")
	code := b.String()
	if strings.Contains(code, "\x00") {
		return "", errRequest
	}
	return code, nil
}
