package untar

import (
	"archive/tar"
	"bytes"
	"errors"
	"math/bits"
	"strconv"
	"strings"
)

// A sparseMap is where the bytes of a sparse file go that an archive stores.
type sparseMap struct {
	fragments []fragment
	stored    int64 // their sum
}

type fragment struct{ offset, length int64 }

var (
	errSparseMap  = errors.New("sparse map is damaged")
	errSparseData = errors.New("sparse map does not fit the bytes that are stored")
)

// sparse returns the map of a sparse file whose headers were just read, and nil
// for another file. There are three forms (GNU tar's manual, Storing Sparse
// Files): the type S of GNU's old format with the map in and behind the header,
// PAX records (0.0 and 0.1), and PAX records with the map as text in front of
// the content (1.0).
//
// archive/tar has accepted the headers, and has read the map, but keeps it.
func (u *unpacker) sparse(h *tar.Header) (*sparseMap, error) {
	major, minor := h.PAXRecords["GNU.sparse.major"], h.PAXRecords["GNU.sparse.minor"]
	var numbers []int64
	var err error
	header, rest := mainHeader(u.head)
	if header == nil {
		return nil, errors.New("its header was not kept") // archive/tar has read one
	}
	size, ok := parseNumber(header[124:136])
	text := int64(0) // bytes of the content that are the map
	switch {
	case h.Typeflag == tar.TypeGNUSparse:
		numbers, err = oldMap(header, rest)
	case major == "1" && minor == "0":
		numbers, err = textMap(rest)
		text = int64(len(rest))
	case major == "0" && (minor == "0" || minor == "1"), major == "" && minor == "" && h.PAXRecords["GNU.sparse.map"] != "":
		// archive/tar has made 0.1 of 0.0.
		numbers, err = recordMap(h.PAXRecords["GNU.sparse.map"])
	default:
		return nil, nil
	}
	if s := h.PAXRecords["size"]; s != "" {
		var serr error
		size, serr = strconv.ParseInt(s, 10, 64)
		ok = serr == nil
	}
	if err == nil && !ok {
		err = errSparseMap
	}
	if err != nil {
		return nil, &ArchiveError{Offset: u.src.offset, Why: "the header of " + quote(h.Name) + " is damaged", Err: err}
	}
	m := &sparseMap{}
	end := int64(0)
	for ; len(numbers) >= 2; numbers = numbers[2:] {
		f := fragment{numbers[0], numbers[1]}
		if f.offset < end || f.length < 0 || f.length > h.Size-f.offset {
			err = errSparseMap
			break
		}
		end = f.offset + f.length
		m.fragments = append(m.fragments, f)
		m.stored += f.length
	}
	if err == nil && m.stored != size-text {
		err = errSparseData
	}
	if err != nil {
		return nil, &ArchiveError{Offset: u.src.offset, Why: "the header of " + quote(h.Name) + " is damaged", Err: err}
	}
	return m, nil
}

// mainHeader finds, among the headers of an entry, the one that is its own, and
// what follows it. Both are nil if the stream ended before.
func mainHeader(head []byte) (header, rest []byte) {
	for len(head) >= block {
		switch head[156] {
		case tar.TypeXHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
			size, ok := parseNumber(head[124:136])
			skip := block + (size+block-1)&^(block-1)
			if !ok || skip > int64(len(head)) {
				return nil, nil
			}
			head = head[skip:]
		default:
			return head[:block], head[block:]
		}
	}
	return nil, nil
}

// oldMap reads the map of GNU's old format: 4 pairs in the header at 386, then
// while a flag says so blocks of 21 pairs.
func oldMap(header, rest []byte) ([]int64, error) {
	const pair = 24
	var numbers []int64
	pairs, more := header[386:386+4*pair], header[482]
	for {
		for ; len(pairs) >= pair && pairs[0] != 0; pairs = pairs[pair:] {
			offset, ok1 := parseNumber(pairs[:12])
			length, ok2 := parseNumber(pairs[12:pair])
			if !ok1 || !ok2 {
				return nil, errSparseMap
			}
			numbers = append(numbers, offset, length)
		}
		if more == 0 {
			return numbers, nil
		}
		if len(rest) < block {
			return nil, errSparseMap
		}
		pairs, more = rest[:21*pair], rest[504]
		rest = rest[block:]
	}
}

// recordMap reads numbers that are separated by commas.
func recordMap(s string) ([]int64, error) {
	if s == "" {
		return nil, nil
	}
	var numbers []int64
	for field := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return nil, errSparseMap
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// textMap reads lines of numbers, the first being that of the pairs.
func textMap(b []byte) ([]int64, error) {
	next := func() (int64, error) {
		line, rest, ok := bytes.Cut(b, []byte{'\n'})
		b = rest
		n, err := strconv.ParseInt(string(line), 10, 64)
		if !ok || err != nil {
			return 0, errSparseMap
		}
		return n, nil
	}
	count, err := next()
	if err != nil || count < 0 || count > int64(len(b)) {
		return nil, errSparseMap
	}
	var numbers []int64
	for range 2 * count {
		n, err := next()
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// parseNumber reads a number of a header that is not negative: octal digits, or
// big-endian after a first byte of 0x80 (GNU).
func parseNumber(b []byte) (int64, bool) {
	if b[0]&0x80 != 0 {
		n := uint64(b[0] & 0x7f)
		for _, c := range b[1:] {
			if bits.LeadingZeros64(n) <= 8 {
				return 0, false
			}
			n = n<<8 | uint64(c)
		}
		return int64(n), true
	}
	s := strings.Trim(string(b), " \x00")
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseInt(s, 8, 64)
	return n, err == nil && n >= 0
}
