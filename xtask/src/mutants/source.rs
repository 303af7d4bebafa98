//! Where an item of a Rust source begins and ends.
//!
//! No parser of Rust: it knows comments, literals and brackets, which is enough to find a function by its name and the
//! brace that closes it.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// An item inside of others, from the outermost to the innermost; without any, the whole file.
///
/// Written `fn append`, `impl Log, fn append`, `impl Display for Log, fn fmt`, `mod wire, const SIZE`, or `file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// `keyword name`.
    Named { keyword: String, name: String },
    /// `impl` blocks of a type: all, or those of one trait.
    Impl { of_trait: Option<String>, of_type: String },
}

/// The items that have a name of their own.
const KEYWORDS: [&str; 8] = ["fn", "mod", "struct", "enum", "trait", "const", "static", "type"];

/// Why a place is not one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// Nothing is called so.
    Missing,
    /// This many items are.
    Several(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Named { keyword, name } => write!(f, "{keyword} {name}"),
            Step::Impl { of_trait: None, of_type } => write!(f, "impl {of_type}"),
            Step::Impl { of_trait: Some(of_trait), of_type } => write!(f, "impl {of_trait} for {of_type}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return write!(f, "file");
        }
        let steps: Vec<String> = self.steps.iter().map(Step::to_string).collect();
        write!(f, "{}", steps.join(", "))
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Step, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["impl", of_trait, "for", of_type] => {
                Ok(Step::Impl { of_trait: Some(of_trait.to_owned()), of_type: of_type.to_owned() })
            }
            ["impl", of_type] => Ok(Step::Impl { of_trait: None, of_type: of_type.to_owned() }),
            [keyword, name] if KEYWORDS.contains(&keyword) => {
                Ok(Step::Named { keyword: keyword.to_owned(), name: name.to_owned() })
            }
            _ => {
                Err(format!("\"{text}\" names no item: `fn NAME`, `impl TYPE, fn NAME`, `const NAME`, ..., or `file`"))
            }
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        if text.trim() == "file" {
            return Ok(Place { steps: Vec::new() });
        }
        Ok(Place { steps: text.split(',').map(Step::from_str).collect::<Result<_, _>>()? })
    }
}

impl Place {
    /// The bytes of the place, from the item's keyword to its closing brace or semicolon.
    ///
    /// # Errors
    /// If there is no such item, or more than one.
    pub fn find(&self, source: &str) -> Result<Range<usize>, Unclear> {
        let Some((innermost, outer)) = self.steps.split_last() else { return Ok(0..source.len()) };
        let code = code_only(source);
        let mut within = vec![Range { start: 0, end: code.len() }];
        for step in outer {
            // What stands inside of an item comes after its keyword, which must not be found again.
            within = step.items(&code, &within).into_iter().map(|item| item.start + 1..item.end).collect();
        }
        match &innermost.items(&code, &within)[..] {
            [item] => Ok(item.clone()),
            [] => Err(Unclear::Missing),
            several => Err(Unclear::Several(several.len())),
        }
    }
}

impl Step {
    fn items(&self, code: &[u8], within: &[Range<usize>]) -> Vec<Range<usize>> {
        let mut items: Vec<Range<usize>> = within.iter().flat_map(|range| self.items_in(code, range)).collect();
        // Places may contain each other: a block in a function of a block of the same type.
        items.sort_by_key(|item| item.start);
        items.dedup();
        items
    }

    fn items_in(&self, code: &[u8], within: &Range<usize>) -> Vec<Range<usize>> {
        let words = words(code, within);
        let mut items = Vec::new();
        for (at, word) in words.iter().enumerate() {
            let hit = match self {
                Step::Named { keyword, name } => {
                    code[word.clone()] == *keyword.as_bytes()
                        && words.get(at + 1).is_some_and(|next| {
                            code[next.clone()] == *name.as_bytes() && is_blank(&code[word.end..next.start])
                        })
                }
                Step::Impl { of_trait, of_type } => {
                    code[word.clone()] == *b"impl"
                        && begins_item(code, &words, at)
                        && header(code, &(word.end..within.end)).is_some_and(|(its_trait, its_type)| {
                            its_type == *of_type && (of_trait.is_none() || its_trait == *of_trait)
                        })
                }
            };
            if hit {
                items.push(extent(code, word.start));
            }
        }
        items
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}

fn words(code: &[u8], within: &Range<usize>) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for at in within.clone().filter(|at| is_word(code[*at])) {
        match words.last_mut() {
            Some(word) if word.end == at => word.end = at + 1,
            _ => words.push(at..at + 1),
        }
    }
    words
}

/// Whether the `impl` that is word number `at` begins a block, and not a type (`impl Fn()`).
fn begins_item(code: &[u8], words: &[Range<usize>], at: usize) -> bool {
    let start = words[at].start;
    match code[..start].iter().rev().find(|byte| !byte.is_ascii_whitespace()) {
        None | Some(b'{' | b'}' | b';' | b']') => true,
        Some(_) => at > 0 && [&b"unsafe"[..], b"default"].contains(&&code[words[at - 1].clone()]),
    }
}

/// To the end of the item that begins at `start`: its first `;` outside of parentheses, or the brace that closes its
/// first one.
fn extent(code: &[u8], start: usize) -> Range<usize> {
    let (mut brackets, mut braces) = (0_usize, 0_usize);
    for (at, byte) in code.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets = brackets.saturating_sub(1),
            b';' if brackets == 0 && braces == 0 => return start..at + 1,
            b'{' if brackets == 0 || braces > 0 => braces += 1,
            b'}' if braces > 0 => {
                braces -= 1;
                if braces == 0 {
                    return start..at + 1;
                }
            }
            _ => {}
        }
    }
    start..code.len()
}

/// The trait and the type of an `impl` block, each by the last word of its path, without generics.
fn header(code: &[u8], after_impl: &Range<usize>) -> Option<(Option<String>, String)> {
    let (mut of_trait, mut path, mut generics) = (None, None, 0_usize);
    let end = after_impl.start + code[after_impl.clone()].iter().position(|byte| *byte == b'{')?;
    let header = after_impl.start..end;
    let words = words(code, &header);
    let mut words = words.iter().peekable();
    let mut at = header.start;
    while at < header.end {
        match code[at] {
            b'<' => generics += 1,
            // The one of `->` closes nothing.
            b'>' if code[at - 1] != b'-' => generics = generics.saturating_sub(1),
            _ => {}
        }
        let Some(word) = words.next_if(|word| word.start == at) else {
            at += 1;
            continue;
        };
        at = word.end;
        if generics > 0 {
            continue;
        }
        match &code[word.clone()] {
            b"where" => break,
            b"for" if path.is_some() => of_trait = path.take(),
            b"for" | b"dyn" | b"mut" | b"const" => {}
            name => path = Some(String::from_utf8_lossy(name).into_owned()),
        }
    }
    Some((of_trait, path?))
}

/// The source with a blank for each byte of a comment, a string or a character: what braces and names are left belong
/// to the code.
fn code_only(source: &str) -> Vec<u8> {
    let mut code = source.as_bytes().to_vec();
    let mut at = 0;
    while at < code.len() {
        let end = match literal_end(source.as_bytes(), at) {
            Some(end) => end.min(code.len()),
            None => {
                // A prefix such as in `br"` belongs to its literal only at the beginning of a word.
                let word = code[at..].iter().take_while(|byte| is_word(**byte)).count();
                at += word.max(1);
                continue;
            }
        };
        code[at..end].fill(b' ');
        at = end;
    }
    code
}

/// The end of the comment or literal that begins at `at`, if one does.
fn literal_end(source: &[u8], at: usize) -> Option<usize> {
    let rest = &source[at..];
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(at + block_comment_len(rest));
    }
    let prefix = [&b"br"[..], b"cr", b"b", b"c", b"r"].into_iter().find(|prefix| {
        let behind = &rest[prefix.len().min(rest.len())..];
        rest.starts_with(prefix) && matches!(behind.first(), Some(b'"' | b'\'' | b'#'))
    });
    let prefix = prefix.unwrap_or_default();
    let body = &rest[prefix.len()..];
    if prefix.ends_with(b"r") {
        let hashes = body.iter().take_while(|byte| **byte == b'#').count();
        // `r#name` is a name.
        if body.get(hashes) != Some(&b'"') {
            return None;
        }
        let mut closing = vec![b'"'];
        closing.extend_from_slice(&body[..hashes]);
        let inner = &body[hashes + 1..];
        let len = inner.windows(closing.len()).position(|window| window == closing).unwrap_or(inner.len());
        return Some(at + prefix.len() + hashes + 1 + len + closing.len());
    }
    let len = match body.first()? {
        b'"' => quoted_len(body, b'"'),
        b'\'' if body.get(1) == Some(&b'\\') => quoted_len(body, b'\''),
        b'\'' => {
            let character = std::str::from_utf8(&body[1..]).ok()?.chars().next()?;
            // A lifetime has no second quote.
            if body.get(1 + character.len_utf8()) != Some(&b'\'') {
                return None;
            }
            character.len_utf8() + 2
        }
        _ => return None,
    };
    Some(at + prefix.len() + len)
}

/// Block comments nest.
fn block_comment_len(source: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < source.len() {
        if source[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if source[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted_len(source: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < source.len() && source[at] != quote {
        at += if source[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn found<'a>(source: &'a str, place: &str) -> Result<&'a str, Unclear> {
        place.parse::<Place>().unwrap().find(source).map(|range| &source[range])
    }

    #[test]
    fn find_function_by_its_whole_name() {
        let source = "fn append_all() { 1 }\npub(crate) fn append(a: u8) -> u8 { a }\nfn last() {}";
        assert_eq!(found(source, "fn append"), Ok("fn append(a: u8) -> u8 { a }"));
        assert_eq!(found(source, "fn app"), Err(Unclear::Missing));
        assert_eq!(found(source, "file"), Ok(source));
    }

    #[test]
    fn find_function_whose_literals_and_comments_have_braces() {
        for body in [
            "// }",
            "/// } don't",
            "/* } /* } */ } */",
            r#"let a = "}";"#,
            r#"let a = "\"}";"#,
            r##"let a = r#"}"}"#;"##,
            r#"let a = br"}\"; let b = c"}";"#,
            "let a = '}';",
            r"let a = '\''; let b = '}';",
            "let a = b'{'; let b = b'\\\\'; let c = b'}';",
            "let a = '\u{e4}'; let b = '{';",
            "fn inner<'a>(a: &'a str) -> &'a str { a }",
            "let r#match = 1; let a = if b { \"{\" } else { \"\" };",
            "let var\"}\" = 0;",
        ] {
            let function = format!("fn one() {{\n    {body}\n}}");
            let source = format!("/// }}\n{function}\nfn two() {{ '}}' }}\n");
            assert_eq!(found(&source, "fn one"), Ok(&function[..]), "{body}");
            assert_eq!(found(&source, "fn two"), Ok("fn two() { '}' }"), "{body}");
        }
    }

    #[test]
    fn find_function_whose_signature_has_semicolons_and_bodies_of_traits() {
        let source = "trait T { fn a(&self, b: [u8; 4]) -> [u8; 4]; fn c(b: [u8; 4]) where u8: Copy { b; } }";
        assert_eq!(found(source, "fn a"), Ok("fn a(&self, b: [u8; 4]) -> [u8; 4];"));
        assert_eq!(found(source, "fn c"), Ok("fn c(b: [u8; 4]) where u8: Copy { b; }"));
    }

    #[test]
    fn find_nested_function_alone_or_through_the_outer_one() {
        let source = "fn outer() { fn inner() { 1 } inner() }\nfn other() { fn inner() { 2 } }";
        assert_eq!(found(source, "fn outer"), Ok("fn outer() { fn inner() { 1 } inner() }"));
        assert_eq!(found(source, "fn inner"), Err(Unclear::Several(2)));
        assert_eq!(found(source, "fn other, fn inner"), Ok("fn inner() { 2 }"));
        assert_eq!(found(source, "fn outer, fn outer"), Err(Unclear::Missing));
    }

    #[test]
    fn find_function_of_one_type_or_of_one_trait() {
        let source = "
            impl<K: Ord, V> Map<K, V> where V: Fn() -> u8 { fn new() { 1 } }
            impl<T> Default for wire::Frame<T> { fn default() { 2 } fn new() -> impl Iterator { 3 } }
            impl Frame<u8> { fn new(from: impl Into<Map>) { 4 } }
            impl<F: for<'a> Fn(&'a u8) -> u8> From<Map<F, F>> for &'static mut dyn Listener { fn from() { 5 } }
            #[cfg(unix)]
            unsafe impl Send for Map {}";
        assert_eq!(found(source, "impl Map, fn new"), Ok("fn new() { 1 }"));
        assert_eq!(found(source, "impl Frame, fn new"), Err(Unclear::Several(2)));
        assert_eq!(found(source, "impl Default for Frame, fn new"), Ok("fn new() -> impl Iterator { 3 }"));
        assert_eq!(found(source, "impl Frame, fn default"), Ok("fn default() { 2 }"));
        assert_eq!(found(source, "impl From for Listener, fn from"), Ok("fn from() { 5 }"));
        assert_eq!(found(source, "impl Send for Map"), Ok("impl Send for Map {}"));
        assert_eq!(found(source, "impl Iterator"), Err(Unclear::Missing));
    }

    #[test]
    fn find_items_that_are_no_functions() {
        let source = "mod wire { pub const SIZE: [u8; 2] = [1, 2]; } const SIZE: u8 = 3; enum E { A }";
        assert_eq!(found(source, "mod wire, const SIZE"), Ok("const SIZE: [u8; 2] = [1, 2];"));
        assert_eq!(found(source, "const SIZE"), Err(Unclear::Several(2)));
        assert_eq!(found(source, "enum E"), Ok("enum E { A }"));
    }

    #[test]
    fn parse_place_that_is_none_says_what_would_be_one() {
        for place in ["append", "", "fn", "fn a b", "let x", "impl A for", "fn a,"] {
            assert!(place.parse::<Place>().unwrap_err().contains("names no item"), "{place}");
        }
        for place in ["fn a", "impl B, fn a", "impl C for B, fn a", "file"] {
            assert_eq!(place.parse::<Place>().unwrap().to_string(), place);
        }
    }
}
