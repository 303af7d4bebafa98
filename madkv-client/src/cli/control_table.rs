//! Events and settings, for people and as JSON.

use std::time::{Duration, SystemTime};

use madkv_proto::control::{Event, Setting, Settings};
use madkv_proto::settings::definition;
use serde_json::json;
use smr_service::log_sink::time_text;

/// One event, on one line.
pub fn event_line(event: &Event) -> String {
    let Event { number, subject, text, .. } = event;
    format!("{number:>4}  {}  {subject}: {text}\n", time_of(event))
}

/// One event as one JSON object, on one line.
pub fn event_json(event: &Event) -> String {
    let Event { number, at_unix_ms, subject, text } = event;
    let time = time_of(event);
    format!(
        "{}\n",
        json!({ "number": number, "time": time, "at_unix_ms": at_unix_ms, "subject": subject, "text": text })
    )
}

/// That events between two numbers are gone, as a line or as JSON; nothing if none are.
pub fn gone(after: u64, oldest: u64, as_json: bool) -> String {
    if oldest <= after + 1 {
        return String::new();
    }
    let count = oldest - after - 1;
    if as_json { format!("{}\n", json!({ "gone": count })) } else { format!("      {count} older events are gone\n") }
}

fn time_of(event: &Event) -> String {
    time_text(SystemTime::UNIX_EPOCH + Duration::from_millis(event.at_unix_ms.min(i64::MAX as u64 / 1000)))
}

/// All settings, one on each line, or one of them alone.
pub fn settings_lines(settings: &[&Setting]) -> String {
    let width = settings.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
    let line = |setting: &&Setting| {
        let Setting { name, value, is_set } = setting;
        let (unit, what) = definition(name).map_or(("", ""), |it| (it.unit.symbol(), it.what));
        let value = if unit.is_empty() { value.to_string() } else { format!("{value} {unit}") };
        let how = match (is_set, what.is_empty()) {
            (true, _) => "set",
            (false, false) => "default",
            (false, true) => "",
        };
        format!("{}\n", format!("{name:width$}  {value:>16}  {how:7}  {what}").trim_end())
    };
    settings.iter().map(line).collect()
}

/// Settings as one JSON object, on one line.
pub fn settings_json(version: u64, settings: &[&Setting]) -> String {
    let object: serde_json::Map<String, serde_json::Value> = settings
        .iter()
        .map(|Setting { name, value, is_set }| {
            let unit = definition(name).map(|it| it.unit.symbol());
            (name.clone(), json!({ "value": value, "unit": unit, "is_set": is_set }))
        })
        .collect();
    format!("{}\n", json!({ "version": version, "settings": object }))
}

/// The settings called `name`, or all of them.
pub fn chosen<'s>(settings: &'s Settings, name: Option<&str>) -> Vec<&'s Setting> {
    settings.values.iter().filter(|setting| name.is_none_or(|name| setting.name == name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_has_its_time_in_words_and_as_a_number() {
        let event = Event {
            number: 7,
            at_unix_ms: 1_700_000_000_123,
            subject: "s0.1".into(),
            text: "S2 is repaired: it is in service".into(),
        };
        assert_eq!(event_line(&event), "   7  2023-11-14T22:13:20.123000Z  s0.1: S2 is repaired: it is in service\n");
        let value: serde_json::Value = serde_json::from_str(&event_json(&event)).unwrap();
        assert_eq!((&value["number"], &value["at_unix_ms"]), (&json!(7), &json!(1_700_000_000_123_u64)));
        assert_eq!(gone(4, 5, false), "");
        assert_eq!(gone(4, 8, false), "      3 older events are gone\n");
    }

    #[test]
    fn settings_are_listed_with_units_and_whether_they_were_set() {
        let setting = |name: &str, value, is_set| Setting { name: name.into(), value, is_set };
        let values = vec![setting("election_timeout", 900, true), setting("replicas.s0", 3, false)];
        let settings = Settings { version: 4, values };
        let text = settings_lines(&chosen(&settings, None));
        assert!(text.starts_with("election_timeout            900 ms  set      after this much"), "{text}");
        assert!(text.ends_with("replicas.s0                      3\n"), "{text}");
        let one = chosen(&settings, Some("election_timeout"));
        let value: serde_json::Value = serde_json::from_str(&settings_json(4, &one)).unwrap();
        assert_eq!(value["settings"]["election_timeout"], json!({ "value": 900, "unit": "ms", "is_set": true }));
        assert!(chosen(&settings, Some("none")).is_empty());
    }
}
