//! Writing and reading of fields. Integers are little-endian; text and lists carry their length first.

/// Why bytes from a peer are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The payload ended inside a field.
    #[error("message ends in the middle of {0}")]
    Short(&'static str),
    /// A length or count beyond its limit.
    #[error("{field} is {found}, more than {limit}")]
    Limit {
        /// The field.
        field: &'static str,
        /// What the peer said.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A tag or value that means nothing.
    #[error("unknown {field}: {found}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// What the peer said.
        found: u64,
    },
    /// Bytes after the last field.
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
    /// Text that is not UTF-8.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
}

/// Collects the payload of a message.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// The finished payload.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }
    /// Two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }
    /// Four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }
    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }
    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
    /// Text, cut at `limit` bytes on a character border, after its length in two bytes.
    pub fn text(&mut self, text: &str, limit: usize) -> &mut Self {
        let mut end = text.len().min(limit).min(usize::from(u16::MAX));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.u16(end as u16).raw(&text.as_bytes()[..end])
    }
    /// Bytes after their length in four bytes.
    pub fn blob(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }
}

/// Takes fields from a payload.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Starts at the first byte of a payload.
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// `length` bytes as they are.
    pub fn raw(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(WireError::Short(field))?;
        self.rest = rest;
        Ok(head)
    }

    /// A fixed array.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        self.raw(N, field)?.try_into().map_err(|_| WireError::Short(field))
    }
    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(field)?[0])
    }
    /// Two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }
    /// Four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }
    /// Eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }
    /// A count in four bytes, at most `limit`.
    pub fn count(&mut self, limit: usize, field: &'static str) -> Result<usize, WireError> {
        let found = self.u32(field)?;
        within(u64::from(found), limit as u64, field).map(|count| count as usize)
    }
    /// Text of at most `limit` bytes. It ends up on a terminal or in a log, which it must not steer: of the control
    /// characters only line breaks and tabs are kept, the rest becomes question marks.
    pub fn text(&mut self, limit: usize, field: &'static str) -> Result<String, WireError> {
        let length = within(u64::from(self.u16(field)?), limit as u64, field)? as usize;
        let text = std::str::from_utf8(self.raw(length, field)?).map_err(|_| WireError::Text(field))?;
        Ok(text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '?' } else { c }).collect())
    }
    /// A name: text of one line.
    pub fn name(&mut self, limit: usize, field: &'static str) -> Result<String, WireError> {
        Ok(self.text(limit, field)?.replace(['\n', '\t'], "?"))
    }
    /// Bytes after their length, at most `limit`.
    pub fn blob(&mut self, limit: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let length = self.count(limit, field)?;
        self.raw(length, field)
    }
    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
    /// Nothing may be left.
    pub fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.rest.len())) }
    }
}

/// Checks a number from the peer against its limit.
pub fn within(found: u64, limit: u64, field: &'static str) -> Result<u64, WireError> {
    if found <= limit { Ok(found) } else { Err(WireError::Limit { field, found, limit }) }
}
