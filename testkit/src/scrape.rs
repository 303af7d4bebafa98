//! What a process shows over HTTP, asked for and read as strictly as the format is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a process answered over HTTP.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// The headers, names in small letters.
    pub headers: BTreeMap<String, String>,
    /// What follows the headers, as text.
    pub body: String,
}

/// Asks for `path`.
///
/// # Errors
/// If no one answers in time, or what comes is no HTTP.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    answer(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no answer in {text:?}")))
}

fn answer(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let code = lines.next()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: BTreeMap<String, String> = lines.map(header).collect::<Option<_>>()?;
    let whole = headers.get("content-length").is_none_or(|len| len.parse() == Ok(body.len()));
    whole.then(|| Answer { code, headers, body: body.to_owned() })
}

/// One number of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name, with its suffix (`_total`, `_bucket`, ...).
    pub name: String,
    /// Its labels, by name.
    pub labels: BTreeMap<String, String>,
    /// The number at its end.
    pub value: f64,
}

/// The numbers of a process.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// In their order.
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// Asks for `/metrics`.
    ///
    /// # Errors
    /// If there is no answer, or it is not what the format allows.
    pub fn of(address: SocketAddr) -> Result<Scrape, String> {
        let answer = get(address, "/metrics").map_err(|error| error.to_string())?;
        let kind = answer.headers.get("content-type").map_or("", String::as_str);
        if answer.code != 200 || !kind.starts_with("application/openmetrics-text; version=1.0.0") {
            return Err(format!("{} {kind}: {}", answer.code, answer.body));
        }
        Scrape::parse(&answer.body)
    }

    /// The only sample of this name with (at least) these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|has| has == value))
        };
        let mut found = self.samples.iter().filter(fits);
        found.next().filter(|_| found.next().is_none()).map(|sample| sample.value)
    }

    /// The names of all samples, once each.
    pub fn names(&self) -> BTreeSet<String> {
        self.samples.iter().map(|sample| sample.name.clone()).collect()
    }

    /// Reads OpenMetrics text, and refuses what the format does not allow: samples before their type or apart from
    /// their family, a family or a sample twice, suffixes that do not fit the type, buckets that do not add up, wrong
    /// names and escapes, an end that is missing or not the end.
    ///
    /// # Errors
    /// The line that is wrong, and why.
    pub fn parse(text: &str) -> Result<Scrape, String> {
        let body = text.strip_suffix("# EOF\n").ok_or("no # EOF at the end")?;
        let mut reader = Reader::default();
        for line in body.lines() {
            reader.line(line).map_err(|why| format!("{line:?}: {why}"))?;
        }
        reader.end_family()?;
        Ok(reader.scrape)
    }
}

#[derive(Default)]
struct Reader {
    scrape: Scrape,
    families: BTreeSet<String>,
    /// The present family, its type once it is known, and where its samples begin.
    family: String,
    kind: Option<String>,
    begin: usize,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (Some(word), Some(name), Some(text)) = (words.next(), words.next(), words.next()) else {
                return Err("no such line".to_owned());
            };
            if name != self.family {
                self.end_family()?;
                self.begin_family(name)?;
            }
            if self.begin < self.scrape.samples.len() {
                return Err("after the family's samples".to_owned());
            }
            return match word {
                "HELP" | "UNIT" => Ok(()),
                "TYPE" if self.kind.is_none() && ["gauge", "counter", "histogram"].contains(&text) => {
                    self.kind = Some(text.to_owned());
                    Ok(())
                }
                _ => Err("no such word".to_owned()),
            };
        }
        let sample = sample(line)?;
        let kind = self.kind.as_deref().ok_or("a sample before its type")?;
        let suffix = sample.name.strip_prefix(self.family.as_str()).ok_or("a sample of another family")?;
        let fits = match kind {
            "gauge" => suffix.is_empty(),
            "counter" => suffix == "_total" && sample.value >= 0.0,
            _ => ["_bucket", "_sum", "_count"].contains(&suffix),
        };
        if !fits {
            return Err(format!("does not fit a {kind}"));
        }
        let samples = &mut self.scrape.samples;
        if samples[self.begin..].iter().any(|other| (&other.name, &other.labels) == (&sample.name, &sample.labels)) {
            return Err("twice".to_owned());
        }
        samples.push(sample);
        Ok(())
    }

    fn begin_family(&mut self, name: &str) -> Result<(), String> {
        if !is_name(name) || !self.families.insert(name.to_owned()) {
            return Err("no name, or a family that was there before".to_owned());
        }
        (self.family, self.kind, self.begin) = (name.to_owned(), None, self.scrape.samples.len());
        Ok(())
    }

    fn end_family(&mut self) -> Result<(), String> {
        if self.kind.as_deref() != Some("histogram") {
            return Ok(());
        }
        let samples = &self.scrape.samples[self.begin..];
        let of = |suffix: &str| {
            let name = format!("{}{suffix}", self.family);
            samples.iter().filter(move |sample| sample.name == name)
        };
        for count in of("_count") {
            let mut buckets: Vec<(f64, f64)> = Vec::new();
            for bucket in of("_bucket") {
                let mut labels = bucket.labels.clone();
                let bound = labels.remove("le").ok_or("a bucket without a bound")?;
                let bound = if bound == "+Inf" { Ok(f64::INFINITY) } else { bound.parse::<f64>() };
                if labels == count.labels {
                    buckets.push((bound.map_err(|error| error.to_string())?, bucket.value));
                }
            }
            let grows = buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1);
            let last = buckets.last().copied();
            if !grows || last != Some((f64::INFINITY, count.value)) {
                return Err(format!("{}: buckets that do not add up: {buckets:?}", self.family));
            }
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
            let (value, after) = quoted(after)?;
            if !is_name(label) || labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("label {label:?}"));
            }
            rest = match after.strip_prefix(',') {
                Some(more) => more,
                None => {
                    rest = after.strip_prefix('}').ok_or("labels without an end")?;
                    break;
                }
            };
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no blank before the value")?;
    let value = value.parse::<f64>().map_err(|error| format!("{value:?}: {error}"))?;
    if !is_name(name) || value.is_nan() {
        return Err("no name, or no number".to_owned());
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// What stands before the next quote, and what comes after that.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match letters.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('\\' | '"'))) => escaped,
                other => return Err(format!("escaped {other:?}")),
            }),
            letter => value.push(letter),
        }
    }
    Err("a value without an end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# HELP a_term Its term.
# TYPE a_term gauge
a_term{group=\"s0\"} 3
# HELP a_drops Drops.
# TYPE a_drops counter
a_drops_total{reason=\"full \\\"\\\\\\n\"} 7
a_drops_total{reason=\"other\"} 0
# HELP a_seconds Time.
# TYPE a_seconds histogram
a_seconds_sum 0.5
a_seconds_count 2
a_seconds_bucket{le=\"0.1\"} 1
a_seconds_bucket{le=\"+Inf\"} 2
# EOF
";

    #[test]
    fn parse_good_text_gives_names_labels_and_values() {
        let scrape = Scrape::parse(GOOD).unwrap();
        assert_eq!(scrape.value("a_term", &[("group", "s0")]), Some(3.0));
        assert_eq!(scrape.value("a_drops_total", &[("reason", "full \"\\\n")]), Some(7.0));
        assert_eq!(scrape.value("a_drops_total", &[]), None, "there are two");
        assert_eq!(scrape.value("a_seconds_bucket", &[("le", "+Inf")]), Some(2.0));
        assert_eq!(scrape.names().len(), 5);
    }

    #[test]
    fn parse_whatever_the_format_does_not_allow_is_refused() {
        for (good, bad) in [
            ("# EOF\n", ""),
            ("# EOF\n", "# EOF\na 1\n# EOF\n"),
            ("# TYPE a_term gauge\n", ""),
            ("# TYPE a_term gauge\n", "# TYPE a_term gauge\n# TYPE a_term gauge\n"),
            ("# TYPE a_term gauge\n", "# TYPE a_term number\n"),
            ("a_term{group=\"s0\"} 3\n", "a_term{group=\"s0\"} 3\na_term{group=\"s0\"} 3\n"),
            ("a_term{group=\"s0\"} 3", "a_term{group=\"s0\"} three"),
            ("a_term{group=\"s0\"} 3", "a_term{group=\"s0\"}  3"),
            ("a_term{group=\"s0\"} 3", "a_term{group=\"s0} 3"),
            ("a_term{group=\"s0\"} 3", "a_term{group=s0} 3"),
            ("a_term{group=\"s0\"} 3", "a_term{group=\"s0\",group=\"s1\"} 3"),
            ("a_term{group=\"s0\"} 3", "a_term{1=\"s0\"} 3"),
            ("a_term{group=\"s0\"} 3", "a_term_total{group=\"s0\"} 3"),
            ("a_term{group=\"s0\"} 3", "another 3"),
            ("reason=\"other\"", "reason=\"\\t\""),
            ("a_drops_total{reason=\"other\"} 0", "a_drops{reason=\"other\"} 0"),
            ("a_drops_total{reason=\"other\"} 0", "a_drops_total{reason=\"other\"} -1"),
            ("a_seconds_count 2", "a_seconds_count 3"),
            ("{le=\"0.1\"} 1", "{le=\"0.1\"} 3"),
            ("{le=\"0.1\"}", "{bound=\"0.1\"}"),
            ("a_seconds_bucket{le=\"+Inf\"} 2\n", ""),
            ("# HELP a_seconds Time.", "# HELP a_term Time."),
        ] {
            assert!(GOOD.contains(good), "{good:?}");
            let text = GOOD.replacen(good, bad, 1);
            assert!(Scrape::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn answer_that_is_cut_off_is_none() {
        let whole = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n";
        let read = answer(whole).unwrap();
        assert_eq!((read.code, read.body.as_str()), (503, "no\n"));
        assert!(answer(&whole[..whole.len() - 1]).is_none() && answer("garbage").is_none());
    }
}
