//! The text of LVM's metadata: `key = value`, `[lists]` and `sections {}`.

use crate::used::Doubt;

/// Sections lie four deep in a volume group.
const DEEPEST: usize = 16;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(i64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

/// Keys and values, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Section(pub Vec<(String, Value)>);

impl Section {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// A number that is not negative.
    pub(super) fn number(&self, key: &str) -> Result<u64, Doubt> {
        match self.get(key) {
            Some(&Value::Number(number)) if number >= 0 => Ok(number.unsigned_abs()),
            _ => Err(missing(key)),
        }
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<&str, Doubt> {
        match self.get(key) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(missing(key)),
        }
    }

    /// A list; absent means empty.
    pub(super) fn list(&self, key: &str) -> &[Value] {
        match self.get(key) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// Whether a list holds a text.
    pub(super) fn lists(&self, key: &str, text: &str) -> bool {
        self.list(key).iter().any(|value| matches!(value, Value::Text(found) if found == text))
    }

    /// The sections in it by their names.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    /// A section; absent means empty.
    pub(super) fn section(&self, key: &str) -> Section {
        self.sections().find(|(name, _)| *name == key).map(|(_, section)| section.clone()).unwrap_or_default()
    }

    /// All texts in it, however deep.
    pub(super) fn texts(&self, each: &mut impl FnMut(&str)) {
        self.0.iter().for_each(|(_, value)| value.texts(each));
    }
}

impl Value {
    fn texts(&self, each: &mut impl FnMut(&str)) {
        match self {
            Self::Text(text) => each(text),
            Self::List(list) => list.iter().for_each(|value| value.texts(each)),
            Self::Section(section) => section.texts(each),
            Self::Number(_) => {}
        }
    }
}

fn missing(key: &str) -> Doubt {
    Doubt::new(format!("its LVM metadata have no proper \"{key}\""))
}

/// Reads a whole text.
///
/// # Errors
/// Anything that is not of the form above.
pub(super) fn parse(text: &[u8]) -> Result<Section, Doubt> {
    let mut parser = Parser { text, at: 0 };
    let section = parser.section(0)?;
    if parser.at < text.len() {
        return Err(parser.wrong());
    }
    Ok(section)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn wrong(&self) -> Doubt {
        Doubt::new(format!("its LVM metadata cannot be understood at byte {}", self.at))
    }

    /// The next byte that is neither space nor comment; it is not consumed. A NUL ends the text.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.text.get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' | 0 => self.at += 1,
                b'#' => {
                    while self.text.get(self.at).is_some_and(|&byte| byte != b'\n') {
                        self.at += 1;
                    }
                }
                byte => return Some(byte),
            }
        }
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += 1;
        }
        found
    }

    /// To the closing brace, which is not consumed, or to the end.
    fn section(&mut self, depth: usize) -> Result<Section, Doubt> {
        let mut entries = Vec::new();
        while !matches!(self.peek(), None | Some(b'}')) {
            let start = self.at;
            let is_key = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.+/".contains(byte);
            while self.text.get(self.at).is_some_and(is_key) {
                self.at += 1;
            }
            let key = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
            if key.is_empty() {
                return Err(self.wrong());
            }
            let value = if self.take(b'{') {
                if depth == DEEPEST {
                    return Err(self.wrong());
                }
                let section = self.section(depth + 1)?;
                if !self.take(b'}') {
                    return Err(self.wrong());
                }
                Value::Section(section)
            } else if self.take(b'=') {
                self.value()?
            } else {
                return Err(self.wrong());
            };
            entries.push((key, value));
        }
        Ok(Section(entries))
    }

    fn value(&mut self) -> Result<Value, Doubt> {
        if !self.take(b'[') {
            return self.scalar();
        }
        let mut list = Vec::new();
        while !self.take(b']') {
            list.push(self.scalar()?);
            if !self.take(b',') && self.peek() != Some(b']') {
                return Err(self.wrong());
            }
        }
        Ok(Value::List(list))
    }

    fn scalar(&mut self) -> Result<Value, Doubt> {
        if self.take(b'"') {
            return self.quoted();
        }
        self.peek();
        let start = self.at;
        while self.text.get(self.at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-') {
            self.at += 1;
        }
        let digits = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        digits.parse().map(Value::Number).map_err(|_| self.wrong())
    }

    fn quoted(&mut self) -> Result<Value, Doubt> {
        let mut text = Vec::new();
        loop {
            let mut byte = *self.text.get(self.at).ok_or_else(|| self.wrong())?;
            self.at += 1;
            if byte == b'"' {
                return Ok(Value::Text(String::from_utf8_lossy(&text).into_owned()));
            }
            if byte == b'\\' {
                byte = *self.text.get(self.at).ok_or_else(|| self.wrong())?;
                self.at += 1;
            }
            text.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_lists_sections_and_comments_are_read() {
        let text = br#"
            # by hand
            vg0 {
                id = "a-\"b" # quoted
                n = -5
                status = ["READ", "WRITE"]
                none = []
                lv-1.x { stripes = [ "pv0", 7 ] }
            }
            contents = "Text Format Volume Group"
        "#;
        let root = parse(text).unwrap();
        let group = root.section("vg0");
        assert_eq!(
            (group.text("id").unwrap(), root.text("contents").unwrap()),
            ("a-\"b", "Text Format Volume Group")
        );
        assert!(group.lists("status", "WRITE") && !group.lists("status", "EXPORTED"));
        assert!(group.number("n").is_err() && group.number("id").is_err() && group.list("none").is_empty());
        let stripes = group.section("lv-1.x");
        assert_eq!(stripes.list("stripes"), [Value::Text("pv0".to_owned()), Value::Number(7)]);
        let mut texts = 0;
        root.texts(&mut |_| texts += 1);
        assert_eq!(texts, 5);
    }

    #[test]
    fn what_is_not_of_the_form_is_a_doubt() {
        for text in [
            "a",
            "a =",
            "a = [1",
            "a = \"x",
            "a {",
            "}",
            "a = [1 2]",
            "= 5",
            "a = 99999999999999999999",
            "a = x",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse("a{".repeat(1000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end(text in prop::collection::vec(prop_oneof![Just(b'{'), Just(b'['), Just(b'"'), Just(b'='), Just(b'a'), any::<u8>()], 0..200)) {
            let _ = parse(&text);
        }
    }
}
