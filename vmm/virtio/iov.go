package virtio

// AppendPart appends to dst the part of iov, buffers of a chain, that lies in
// [skip, skip+n) of their bytes, and what there is of it where they are shorter.
func AppendPart(dst, iov [][]byte, skip, n int) [][]byte {
	for _, b := range iov {
		if n == 0 {
			break
		}
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b = b[skip:min(len(b), skip+n)]
		skip = 0
		n -= len(b)
		dst = append(dst, b)
	}
	return dst
}
