//go:build dist

package payload

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the parts
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/stilehq/stile/distro"
)

// Embedded says whether this program has all parts inside.
const Embedded = true

// `make dist` puts the files there.
var (
	//go:embed files/shim
	shimBytes []byte
	//go:embed files/guestinit
	guestInitBytes []byte
	//go:embed files/vmlinux.zst
	kernelBytes []byte
)

func shim() (*part, error)      { return embedded(shimBytes) }
func guestInit() (*part, error) { return embedded(guestInitBytes) }

// kernelPath unpacks the kernel to the cache, once for its content. What is
// there under the content's name is whole, for it got its name when it was.
func kernelPath(dirs distro.Dirs) (string, error) {
	sum := sha256.Sum256(kernelBytes)
	path := filepath.Join(dirs.Cache, "kernels", "embedded-"+hex.EncodeToString(sum[:6]), "vmlinux")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	z, err := zstd.NewReader(bytes.NewReader(kernelBytes))
	if err != nil {
		return "", fmt.Errorf("unpack kernel: %w", err)
	}
	defer z.Close()
	data, err := io.ReadAll(z)
	if err != nil {
		return "", fmt.Errorf("unpack kernel: %w", err)
	}
	if err := install(path, data, time.Now()); err != nil {
		return "", fmt.Errorf("unpack kernel: %w", err)
	}
	return path, nil
}
