package kernel

import (
	"strings"
	"testing"
)

const (
	sumA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sumB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestParsePin(t *testing.T) {
	pin, err := ParsePin("# head\n\nversion 7.3.4 # newest\n" +
		"source deb s-backports/linux-source-7.3=7.3.4-1 " + sumA + "\n" +
		"source tar linux-7.3.4.tar.xz " + sumB + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if pin.Version != "7.3.4" || len(pin.Sources) != 2 || pin.Sources[1].SHA256 != sumB {
		t.Errorf("pin %+v", pin)
	}
	suite, pkg, version, err := pin.Sources[0].Deb()
	if err != nil || suite != "s-backports" || pkg != "linux-source-7.3" || version != "7.3.4-1" {
		t.Errorf("deb %q %q %q, %v", suite, pkg, version, err)
	}
}

func TestParsePinErrors(t *testing.T) {
	const version, source = "version 7.3.4\n", "source tar l.tar.xz " + sumA + "\n"
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "no version"},
		{"no source", version, "no source"},
		{"two versions", version + version + source, "pin:2: version stands twice"},
		{"version with a path", "version ../7\n" + source, "not digits and dots"},
		{"one hash twice", version + source + source, "stands twice"},
		{"short hash", version + "source tar l.tar.xz abc\n", "not a sha256"},
		{"upper-case hash", version + "source tar l.tar.xz " + strings.ToUpper(sumA) + "\n", "not a sha256"},
		{"no hash", version + "source tar l.tar.xz\n", "neither"},
		{"unknown kind", version + "source rpm l " + sumA + "\n", "neither deb nor tar"},
		{"deb without a version", version + "source deb suite/pkg " + sumA + "\n", "not SUITE/PACKAGE=VERSION"},
		{"deb with a path", version + "source deb a/b/c=1 " + sumA + "\n", "not SUITE/PACKAGE=VERSION"},
		{"tar with a path", version + "source tar ../l.tar.xz " + sumA + "\n", "not a file name"},
		{"unknown word", "kernel 7\n", "neither"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ParsePin(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestReadPin(t *testing.T) {
	if _, err := ReadPin(); err != nil {
		t.Fatal(err)
	}
}
