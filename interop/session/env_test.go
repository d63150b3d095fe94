package session

import (
	"slices"
	"testing"
)

func TestGuestEnv(t *testing.T) {
	const standard = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, tt := range []struct {
		name      string
		env, want []string
	}{
		{"empty", nil, []string{"PATH=" + standard}},
		{"links leave PATH", []string{"PATH=/l:/opt/x:/l/:/bin"},
			[]string{"PATH=/opt/x:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin"}},
		{"bytes are kept", []string{"A=b=c\n", "B=\xff", "odd", "=x", "PATH=" + standard},
			[]string{"A=b=c\n", "B=\xff", "odd", "=x", "PATH=" + standard}},
		{"the host's own stays", []string{"LD_PRELOAD=x", "XDG_RUNTIME_DIR=/run/user/1", "LD_PRELOADED=y", "PATH=" + standard},
			[]string{"LD_PRELOADED=y", "PATH=" + standard}},
	} {
		if got := GuestEnv(tt.env, "/l", ""); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	for _, path := range []string{"/bin", "/run/x:/bin", "/bin:/run/x"} {
		want := []string{"PATH=/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/run/x"}
		if got := GuestEnv([]string{"PATH=" + path}, "/l", "/run/x"); !slices.Equal(got, want) {
			t.Errorf("host commands are last: %q, want %q", got, want)
		}
	}
}

func TestIsolatedEnv(t *testing.T) {
	got := IsolatedEnv([]string{"TERM=x", "LC_TIME=C", "AWS_SECRET_ACCESS_KEY=s", "PATH=/mine", "odd", "LANG=C", "TERMINAL=y"})
	want := []string{"TERM=x", "LC_TIME=C", "LANG=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSetBrowser(t *testing.T) {
	env := []string{"A=b", "BROWSER=firefox", "BROWSERS=x"}
	if got := SetBrowser(env, []string{"gh"}); !slices.Equal(got, env) {
		t.Errorf("without the link: %q", got)
	}
	want := []string{"A=b", "BROWSERS=x", "BROWSER=xdg-open"}
	if got := SetBrowser(env, []string{"gh", "xdg-open"}); !slices.Equal(got, want) {
		t.Errorf("with the link: %q, want %q", got, want)
	}
}
