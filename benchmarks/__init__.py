"""Speed and memory of a duolink server, beside a relay that knows no protocol and the kernel's own floor."""
