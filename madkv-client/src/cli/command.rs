//! What an operator can say, on the command line and at the prompt, and what comes of it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind::DisplayHelp;
use clap::{Parser, Subcommand};
use madkv_proto::settings::unknown;
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::SLOTS;
use smr_service::args::{self, explain};

use crate::cli::backup::{self, BackupError, Header, Loaded, Saved};
use crate::cli::stop::Stop;
use crate::cli::{control_table, slow_table, status_table, watch, why_text};
use crate::{Client, Error, KeyPlace, WatchStart};

/// An operator's command.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum CliCommand {
    /// List what can be said, or explain one command
    Help {
        /// The command to explain
        #[arg(value_parser = PossibleValuesParser::new(COMMAND_WORDS.into_iter().chain(LINE_WORDS)))]
        word: Option<String>,
    },
    /// Partitions, replicas, roles, terms, indexes, lag
    ///
    /// Every replica is asked and has a second to answer. On a terminal the table fits its width: columns that find no
    /// room are left out, and named below it. It fails if no manager answers.
    Status {
        /// JSON instead of a table
        #[arg(long)]
        json: bool,
        /// Which replica is a slow one, and what of it: cpu, sync, apply, network to whom, queue
        ///
        /// Each is compared with what it was before and with the other replicas of its group. It fails if none says.
        #[arg(long)]
        slow: bool,
    },
    /// The slot of a key, its partition, and who leads that
    ///
    /// It fails if no leader answers.
    Where {
        /// The key
        #[arg(allow_hyphen_values = true)]
        key: String,
        /// JSON instead of a line
        #[arg(long)]
        json: bool,
    },
    /// Carry out a write, and tell where its time went: queue, syncs, network, apply
    ///
    /// For example: why PUT k v. The replicas of the group are asked when they had the entry; no clocks are compared.
    Why {
        /// PUT KEY VALUE, SWAP KEY VALUE or DELETE KEY
        #[arg(required = true, num_args = 1.., allow_hyphen_values = true)]
        line: Vec<String>,
    },
    /// The settings that can be changed while everything runs
    Get {
        /// Only this one
        setting: Option<String>,
        /// JSON instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Change a setting, for all processes that it concerns
    ///
    /// It is in force within two intervals of gfd_heartbeat_freq. A value is a whole number, in the unit that `get`
    /// shows.
    Set {
        /// Its name
        setting: String,
        /// Its new value
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// JSON instead of a line
        #[arg(long)]
        json: bool,
    },
    /// What the managers have decided, and why
    ///
    /// Members that come and go, hosts that fail, repairs, settings that were changed: the last 1,000 events.
    Events {
        /// Go on with each new one, until Ctrl-C
        #[arg(long)]
        follow: bool,
        /// A JSON object for each instead of a line
        #[arg(long)]
        json: bool,
    },
    /// Each change of a key, or of a range of keys, as it comes
    ///
    /// Until Ctrl-C: EVENT, the index of its entry in the log of its partition, PUT or DELETE, the key and the value.
    /// With --from it goes on where another one was, as long as that is kept. With --json each change names its
    /// partition.
    Watch {
        /// The key
        #[arg(allow_hyphen_values = true)]
        key: String,
        /// The last key, included, if it is a range
        #[arg(long, allow_hyphen_values = true)]
        to: Option<String>,
        /// The first entry, as 7, or as s0:7,s1:9 if the keys are in several partitions; without it, from now on
        #[arg(long, value_name = "INDEX", value_parser = watch::start)]
        from: Option<WatchStart>,
        /// A JSON object for each instead of a line
        #[arg(long)]
        json: bool,
    },
    /// Hand the leadership of a group to another of its replicas
    ///
    /// In an active or passive group the managers make it the first; a chain keeps its order.
    Transfer {
        /// m, s0, s1, ...
        group: String,
        /// The replica that is to lead
        #[arg(value_name = "REPLICA", value_parser = replica_number)]
        to: u16,
    },
    /// Take a replica back whose directory was lost or damaged
    Readmit {
        /// m, s0, s1, ...
        group: String,
        /// The replica
        #[arg(value_parser = replica_number)]
        replica: u16,
    },
    /// Write all keys to a file, each partition as of one moment
    ///
    /// The file is compressed and checksummed. It is written beside first, then synced and renamed, and replaces no
    /// other.
    Backup {
        /// The file
        file: PathBuf,
    },
    /// Write all keys of a backup to the cluster, whatever shape it has
    ///
    /// All of the file is verified before anything is written.
    Restore {
        /// The file
        file: PathBuf,
        /// Also into a cluster that has keys; those that the file has are overwritten
        #[arg(long = "into_nonempty", alias = "into-nonempty")]
        into_nonempty: bool,
    },
    /// Let a partition have another number of replicas, while it serves
    ///
    /// Newcomers have to be started before, with --join and --advertise. Those with the highest numbers leave first.
    Scale {
        /// s0, s1, ...
        #[arg(value_parser = partition)]
        group: u16,
        /// How many: 1, 3, 5, 7 or 9
        #[arg(value_parser = replica_number)]
        replicas: u16,
    },
    /// Make known where a replica is, after it has moved or before
    Move {
        /// s0.0, s0.1, ...
        #[arg(value_parser = place)]
        replica: (u16, u16),
        /// Where it serves clients, as host:port
        address: String,
        /// Where its peers reach it, as host:port
        p2p_address: String,
    },
    /// Add a partition, which has no slots at first
    ///
    /// Its servers are started afterwards, as those of the first partitions are; then move-slots gives it slots.
    AddPartition {
        /// Where its replicas serve clients, as host:port, separated by commas: 1, 3, 5, 7 or 9
        #[arg(value_parser = addresses)]
        servers: Addresses,
    },
    /// Move slots, with their keys, from the partition that has them to another one, while both serve
    ///
    /// One move at a time; it goes on whoever fails meanwhile. events shows how far it is.
    MoveSlots {
        /// The first and the last slot, as 0-99; they must be of one partition
        #[arg(value_parser = slots)]
        slots: SlotSet,
        /// s0, s1, ...
        #[arg(value_parser = partition)]
        group: u16,
    },
    /// Give up the move of slots that is under way
    ///
    /// As long as all is not copied: then the partition that had the slots keeps them, and nothing is left at the other
    /// one. Once the map gives them to the other one it is refused, and the move goes on.
    AbandonMove,
}

/// A list of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(pub Vec<String>);

/// The first words of operators' commands.
pub const COMMAND_WORDS: [&str; 17] = [
    "help",
    "status",
    "where",
    "why",
    "get",
    "set",
    "events",
    "watch",
    "transfer",
    "readmit",
    "backup",
    "restore",
    "scale",
    "move",
    "add-partition",
    "move-slots",
    "abandon-move",
];
/// The first words of the line protocol.
pub const LINE_WORDS: [&str; 7] = ["PUT", "SWAP", "GET", "DELETE", "SCAN", "WATCH", "STOP"];

/// How long the one who follows events waits before asking for more.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

/// What `help` says.
pub const HELP: &str = "\
PUT <key> <value>         set; says whether the key was there
SWAP <key> <value>        set; gives the old value
GET <key>                 the value, or null
DELETE <key>              remove; says whether the key was there
SCAN <from> <to>          all keys from..to, both included, sorted by bytes
WATCH <key>               its changes as they come, until Ctrl-C (on a pipe: until the next line)
WATCH <from> <to> [<n>]   the same of keys from..to, from entry n on
STOP                      leave
status [--json]           partitions, replicas, roles, terms, indexes, lag
status --slow [--json]    which replica is a slow one, and what of it
where <key> [--json]      its slot, its partition, and who leads that
why PUT <key> <value>     carry it out, and tell where its time went (also SWAP, DELETE)
get [<setting>] [--json]  the settings that can be changed while everything runs
set <setting> <value>     change one
events [--json]           what the managers have decided, and why
watch <key> [--to <key>]  the same as WATCH, on the command line
transfer <group> <n>      let replica n lead; a group is m, s0, s1, ...
readmit <group> <n>       take replica n back after its directory was lost or damaged
backup <file>             write all keys to a file, each partition as of one moment
restore <file>            write all keys of such a file to this cluster, which must have none
scale <group> <n>         let partition s0, s1, ... have n replicas
move <replica> <addr> <p2p>  where s0.0, s0.1, ... is now, for clients and for its peers
add-partition <addrs>     add a partition without slots, whose replicas serve clients there
move-slots <a>-<b> <group>  move slots a to b, with their keys, to partition s0, s1, ...
abandon-move              give up the move of slots that is under way
help [<word>]             this, or more about one word
Keys and values are words without spaces; keys up to 4 KiB, values up to 1 MiB.
";

/// A line of the prompt, which has no program's name and none of its flags.
#[derive(Parser)]
#[command(multicall = true, disable_help_subcommand = true)]
struct PromptLine {
    #[command(subcommand)]
    command: CliCommand,
}

fn replica_number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "a replica is a number".to_owned())
}

fn partition(text: &str) -> Result<u16, String> {
    let number = text.strip_prefix('s').and_then(|number| number.parse().ok());
    number.ok_or_else(|| "a partition is s0, s1, ...".to_owned())
}

fn addresses(text: &str) -> Result<Addresses, String> {
    args::addresses("servers", text).map(Addresses).map_err(|bad| bad.0)
}

fn slots(text: &str) -> Result<SlotSet, String> {
    let wrong = || format!("slots are a number below {SLOTS}, or two as 0-99");
    let number = |text: &str| text.parse::<u16>().ok().filter(|slot| *slot < SLOTS).ok_or_else(wrong);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first <= last { Ok(SlotSet::range(first, last + 1)) } else { Err(wrong()) }
}

fn place(text: &str) -> Result<(u16, u16), String> {
    let parts = text.split_once('.').and_then(|(group, replica)| Some((partition(group).ok()?, replica.parse().ok()?)));
    parts.ok_or_else(|| "a replica is s0.0, s0.1, ...".to_owned())
}

/// The command in the words of a line.
///
/// # Errors
/// Help that was asked for, or what is wrong.
pub fn parse(words: &[&str]) -> Result<CliCommand, Stop> {
    match PromptLine::try_parse_from(words) {
        Ok(line) => Ok(line.command),
        Err(error) if error.kind() == DisplayHelp => Err(Stop::Print(error.to_string())),
        Err(error) => Err(Stop::Wrong(explain(&error))),
    }
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What to print.
    pub text: String,
    /// Whether it is what was asked for. A status that no manager has a part in is not, nor is a place without a
    /// leader.
    pub is_whole: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A call of the client library failed.
    #[error(transparent)]
    Client(#[from] Error),
    /// A backup was not made, or not restored.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// Carries out a command. A table is at most `columns` wide, if that is given.
///
/// # Errors
/// See [`CommandError`].
pub async fn execute(client: &Client, command: &CliCommand, columns: Option<u16>) -> Result<Report, CommandError> {
    let whole = |text: String| Report { text, is_whole: true };
    match command {
        CliCommand::Help { word } => Ok(whole(word.as_deref().map_or_else(|| HELP.to_owned(), help_about))),
        CliCommand::Status { json, slow: true } => {
            let pace = client.pace().await;
            let text = if *json { slow_table::json(&pace) } else { slow_table::table(&pace) };
            Ok(Report { text, is_whole: pace.has_answers() })
        }
        CliCommand::Status { json, slow: false } => {
            let (status, pace) = tokio::join!(client.status(), client.pace());
            let text = if *json {
                status_table::json(&status, &pace)
            } else {
                status_table::table(&status, columns) + &slow_table::stands_back(&pace)
            };
            Ok(Report { text, is_whole: status.has_manager() })
        }
        CliCommand::Where { key, json } => {
            let place = client.place_of(key.as_bytes()).await?;
            let text = if *json { place_json(key, &place) } else { place_line(key, &place) };
            Ok(Report { text, is_whole: place.leader.is_some() })
        }
        CliCommand::Why { line } => {
            let (line, as_json) = without_json(line);
            Ok(whole(why_text::why(client, &line, as_json).await?))
        }
        CliCommand::Get { setting, json } => {
            let settings = client.settings().await?;
            let chosen = control_table::chosen(&settings, setting.as_deref());
            if let (Some(name), true) = (setting, chosen.is_empty()) {
                return Err(Error::Refused { reason: unknown(name), may_have_happened: false }.into());
            }
            let lines = control_table::settings_lines(&chosen);
            Ok(whole(if *json { control_table::settings_json(settings.version, &chosen) } else { lines }))
        }
        CliCommand::Set { setting, value, json } => {
            client.set(setting, value).await?;
            Ok(whole(if *json {
                format!("{}\n", serde_json::json!({ "setting": setting, "value": value.parse::<u64>().ok() }))
            } else {
                format!("{setting} is {value} now\n")
            }))
        }
        CliCommand::Events { follow: true, .. } => {
            let reason = "events --follow goes on for ever: say it on the command line".to_owned();
            Err(Error::Refused { reason, may_have_happened: false }.into())
        }
        CliCommand::Events { follow: false, json } => {
            let mut text = String::new();
            let mut after = 0;
            while events_after(client, &mut after, *json, &mut text).await? {}
            Ok(whole(text))
        }
        CliCommand::Watch { .. } => {
            let reason = "watch goes on for ever: say it on the command line, or WATCH here".to_owned();
            Err(Error::Refused { reason, may_have_happened: false }.into())
        }
        CliCommand::Transfer { group, to } => {
            client.transfer(group, *to).await?;
            Ok(whole(format!("{group}: leadership handed to replica {to}\n")))
        }
        CliCommand::Scale { group, replicas } => {
            client.scale(*group, *replicas).await?;
            Ok(whole(format!("s{group}: {replicas} replicas\n")))
        }
        CliCommand::Move { replica: (group, replica), address, p2p_address } => {
            client.relocate((*group, *replica), address, p2p_address).await?;
            Ok(whole(format!("s{group}.{replica}: at {address}, for its peers at {p2p_address}\n")))
        }
        CliCommand::AddPartition { servers } => {
            client.add_partition(&servers.0).await?;
            Ok(whole(format!("a partition is added: {}\n", servers.0.join(", "))))
        }
        CliCommand::MoveSlots { slots, group } => {
            client.move_slots(slots.clone(), *group).await?;
            Ok(whole(format!("s{group}: has slots {slots}\n")))
        }
        CliCommand::AbandonMove => {
            client.abandon_move().await?;
            Ok(whole("the move is given up: its slots stay where they were\n".to_owned()))
        }
        CliCommand::Readmit { group, replica } => {
            client.readmit(group, *replica).await?;
            Ok(whole(format!("{group}: replica {replica} readmitted\n")))
        }
        CliCommand::Backup { file } => {
            let Saved { keys, partitions, epoch, len_bytes } = backup::save(client, file).await?;
            let file = file.display();
            Ok(whole(format!("{keys} keys of {partitions} partitions, epoch {epoch}: {len_bytes} bytes in {file}\n")))
        }
        CliCommand::Restore { file, into_nonempty } => {
            let Loaded { keys, header } = backup::load(client, file, *into_nonempty).await?;
            let Header { cluster, taken_at, .. } = header;
            Ok(whole(format!("{keys} keys restored, of cluster {cluster} as of {taken_at}\n")))
        }
    }
}

/// The words of a line, and whether `--json` stood before or behind them.
fn without_json(words: &[String]) -> (String, bool) {
    let flag = "--json";
    let inner = match words {
        [first, rest @ ..] if first == flag => rest,
        [rest @ .., last] if last == flag => rest,
        all => all,
    };
    (inner.join(" "), inner.len() < words.len())
}

/// Prints events as they come, until `print` fails.
///
/// # Errors
/// Why no more events come; see [`Error`].
pub async fn follow_events(
    client: &Client,
    json: bool,
    mut print: impl FnMut(&str) -> io::Result<()>,
) -> Result<io::Error, Error> {
    let mut after = 0;
    loop {
        let mut text = String::new();
        let more = events_after(client, &mut after, json, &mut text).await?;
        if !text.is_empty()
            && let Err(error) = print(&text)
        {
            return Ok(error);
        }
        if !more {
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }
}

/// Appends the next events after number `after`, which then is that of the last. Returns whether there may be more.
async fn events_after(client: &Client, after: &mut u64, json: bool, text: &mut String) -> Result<bool, Error> {
    let events = client.events(*after, u32::MAX).await?;
    text.push_str(&control_table::gone(*after, events.oldest, json));
    for event in &events.events {
        text.push_str(&if json { control_table::event_json(event) } else { control_table::event_line(event) });
        *after = event.number;
    }
    Ok(!events.events.is_empty() && *after < events.newest)
}

/// The help of one command, or its line of [`HELP`] for a request of the line protocol.
fn help_about(word: &str) -> String {
    match parse(&[word, "--help"]) {
        Err(Stop::Print(help)) => help,
        _ => HELP.split_inclusive('\n').filter(|line| line.split(' ').next() == Some(word)).collect(),
    }
}

fn place_line(key: &str, place: &KeyPlace) -> String {
    let KeyPlace { slot, partition, leader, .. } = place;
    let leader = match leader {
        Some((replica, address)) => format!("leader s{partition}.{replica} at {address}"),
        None => "no leader answers".to_owned(),
    };
    format!("{key}: slot {slot}, partition s{partition}, {leader}\n")
}

fn place_json(key: &str, place: &KeyPlace) -> String {
    let KeyPlace { slot, partition, epoch, leader } = place;
    let (replica, address) = leader.clone().unzip();
    let group = format!("s{partition}");
    format!(
        "{}\n",
        serde_json::json!({
            "key": key, "slot": slot, "partition": partition, "group": group, "epoch": epoch, "leader": replica,
            "address": address,
        })
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn parse_commands_of_the_prompt_recognized() {
        let command = |line: &str| parse(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(command("status"), Ok(CliCommand::Status { json: false, slow: false }));
        assert_eq!(command("status --json"), Ok(CliCommand::Status { json: true, slow: false }));
        assert_eq!(command("status --slow --json"), Ok(CliCommand::Status { json: true, slow: true }));
        assert_eq!(command("where k --json"), Ok(CliCommand::Where { key: "k".into(), json: true }));
        assert_eq!(command("where -k"), Ok(CliCommand::Where { key: "-k".into(), json: false }));
        assert_eq!(command("why PUT k -v"), Ok(CliCommand::Why { line: words(&["PUT", "k", "-v"]) }));
        assert_eq!(without_json(&words(&["PUT", "k", "v", "--json"])), ("PUT k v".to_owned(), true));
        assert_eq!(without_json(&words(&["PUT", "k", "v"])), ("PUT k v".to_owned(), false));
        assert_eq!(command("transfer s0 2"), Ok(CliCommand::Transfer { group: "s0".into(), to: 2 }));
        assert_eq!(command("readmit m 1"), Ok(CliCommand::Readmit { group: "m".into(), replica: 1 }));
        assert_eq!(
            command("get lfd_heartbeat_freq"),
            Ok(CliCommand::Get { setting: Some("lfd_heartbeat_freq".into()), json: false })
        );
        let set = CliCommand::Set { setting: "snapshot_freq".into(), value: "0".into(), json: false };
        assert_eq!(command("set snapshot_freq 0"), Ok(set));
        assert_eq!(command("scale s0 5"), Ok(CliCommand::Scale { group: 0, replicas: 5 }));
        let moved = CliCommand::Move { replica: (1, 2), address: "h:1".into(), p2p_address: "h:2".into() };
        assert_eq!(command("move s1.2 h:1 h:2"), Ok(moved));
        let added = CliCommand::AddPartition { servers: Addresses(words(&["h:1", "h:2", "h:3"])) };
        assert_eq!(command("add-partition h:1,h:2,h:3"), Ok(added));
        for (line, end) in [("move-slots 0-99 s1", 100), ("move-slots 0 s1", 1)] {
            assert_eq!(command(line), Ok(CliCommand::MoveSlots { slots: SlotSet::range(0, end), group: 1 }));
        }
        assert_eq!(command("abandon-move"), Ok(CliCommand::AbandonMove));
        assert_eq!(command("help"), Ok(CliCommand::Help { word: None }));
        for (line, part) in [
            ("transfer s0 one", "a replica is a number"),
            ("transfer s0", "<REPLICA>"),
            ("scale m 3", "a partition is s0"),
            ("move s0 h:1 h:2", "a replica is s0.0"),
            ("move-slots 9-8 s1", "slots are a number below 16384"),
            ("move-slots 0-16384 s1", "slots are a number below 16384"),
            ("move-slots 0-1 m", "a partition is s0"),
            ("add-partition h", "h"),
            ("status --jsn", "did you mean '--json'?"),
            ("help transfr", "did you mean 'transfer'?"),
        ] {
            let Err(Stop::Wrong(message)) = command(line) else { panic!("{line:?} was accepted") };
            assert!(message.contains(part) && !message.contains('\n'), "{line:?}: {message:?}");
        }
    }

    #[test]
    fn help_lists_every_command_and_has_more_about_each() {
        let grammar = PromptLine::command();
        let commands: Vec<&str> = grammar.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(commands, COMMAND_WORDS);
        for word in COMMAND_WORDS.into_iter().chain(LINE_WORDS) {
            assert!(HELP.lines().any(|line| line.starts_with(&format!("{word} "))), "{word}");
            assert!(help_about(word).contains(word), "{word}: {}", help_about(word));
        }
        assert!(help_about("status").contains("Usage: status [OPTIONS]"), "{}", help_about("status"));
    }
}
