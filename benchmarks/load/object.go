package main

// A reader of the flat JSON objects of the wire, as they are on the hot path: strings and numbers are
// read, nested values are skipped, escapes are left as they are.

type field struct {
	name, value []byte // a string's value is without its quotes
	quoted      bool
}

// fields appends the members of one object to `into`.
func fields(object []byte, into []field) []field {
	if len(object) < 2 || object[0] != '{' || object[len(object)-1] != '}' {
		fail("not an object: %q", object)
	}
	at := 1
	for at < len(object)-1 {
		name, next := text(object, at)
		if next >= len(object) || object[next] != ':' {
			fail("no colon at %d: %q", next, object)
		}
		at = next + 1
		var f field
		f.name = name
		if object[at] == '"' {
			f.value, next = text(object, at)
			f.quoted = true
		} else {
			next = skip(object, at)
			f.value = object[at:next]
		}
		into = append(into, f)
		at = next
		if object[at] == ',' {
			at++
		}
	}
	return into
}

// text returns the string whose opening quote is at `at`, and where it ends.
func text(object []byte, at int) ([]byte, int) {
	if object[at] != '"' {
		fail("no string at %d: %q", at, object)
	}
	for i := at + 1; i < len(object); i++ {
		switch object[i] {
		case '\\':
			i++
		case '"':
			return object[at+1 : i], i + 1
		}
	}
	fail("an endless string: %q", object)
	return nil, 0
}

// skip returns where the value that begins at `at` ends.
func skip(object []byte, at int) int {
	depth := 0
	for i := at; i < len(object); i++ {
		switch object[i] {
		case '"':
			_, i = text(object, i)
			i--
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	fail("an endless value: %q", object)
	return 0
}

// number reads a non-negative integer.
func number(value []byte) int64 {
	result := int64(0)
	for _, digit := range value {
		if digit < '0' || digit > '9' {
			fail("not a number: %q", value)
		}
		result = 10*result + int64(digit-'0')
	}
	return result
}
