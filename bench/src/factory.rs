//! The robot factories of `services/factory`: how many orders with one to three servers, how many reads with one and
//! two. As pictures and as a table, beside the report.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use clap::Args;
use madkv_testkit::measure::Trouble;
use madkv_testkit::ports::Ports;
use madkv_testkit::process::Process;
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;
use tempfile::TempDir;

use crate::report::plot::{Bars, CAN_DRAW, number};

const SERVER: &str = "factory-server";
const CLIENT: &str = "factory-client";
/// Customers who order.
const WRITERS: u32 = 8;
/// Customers who read, at each server, and the orders of each before that.
const READERS: u32 = 128;
const ORDERS_BEFORE_READS: u32 = 4;
/// Requests of each customer from which the number for the measured run is taken.
const TRIAL: u32 = 100;
/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long, and where to.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// For how long each measurement runs, in seconds, at least
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Where the pictures go
    #[arg(long, default_value = "report", value_name = "DIRECTORY")]
    pub out: PathBuf,
}

/// What a client prints in the end.
#[derive(Clone, Copy, Debug)]
struct Figures {
    mean_us: f64,
    rate: f64,
}

struct Group {
    _processes: Vec<Process>,
    ports: Ports,
    programs: Programs,
    _directory: TempDir,
}

impl Group {
    fn start(programs: &Programs, servers: u16) -> Result<Group, Trouble> {
        // On the disk of the build: the usual place for temporary files may be memory.
        let directory = tempfile::Builder::new().prefix("factory-bench-").tempdir_in(programs.directory())?;
        let ports = Ports::claim(servers)?;
        let first = ports.first();
        let mut processes = Vec::new();
        for id in 0..servers {
            let mut line = vec![(first + id).to_string(), id.to_string(), (servers - 1).to_string()];
            for peer in (0..servers).filter(|&peer| peer != id) {
                line.extend([peer.to_string(), "127.0.0.1".to_owned(), (first + peer).to_string()]);
            }
            let backer = directory.path().join(format!("server.{id}"));
            line.extend(["--backer_path".to_owned(), backer.display().to_string()]);
            line.extend(["--listen_host".to_owned(), "127.0.0.1".to_owned(), "--end_with_stdin".to_owned()]);
            let log = directory.path().join(format!("server.{id}.log"));
            let line = line.into_iter().map(OsString::from).collect();
            let mut process = Process::new(programs.path(SERVER), line, log).with_stdin();
            process.start()?;
            wait_for(START_TIMEOUT, &format!("server {id} to listen"), || {
                std::net::TcpStream::connect(("127.0.0.1", first + id)).ok()
            })?;
            processes.push(process);
        }
        Ok(Group { _processes: processes, ports, programs: programs.clone(), _directory: directory })
    }

    fn client(&self, server: u16, customers: u32, requests: u32, kind: &str) -> Result<Figures, Trouble> {
        let mut command = Command::new(self.programs.path(CLIENT));
        let port = (self.ports.first() + server).to_string();
        let numbers = [customers.to_string(), requests.to_string()];
        command.args(["127.0.0.1", &port, &numbers[0], &numbers[1], kind]).stdin(Stdio::null());
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !said.is_empty() {
            return Err(format!("{CLIENT} {customers} {requests} {kind}: {said}").into());
        }
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let figures: Vec<f64> = printed.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match figures[..] {
            [mean_us, _, _, rate] => Ok(Figures { mean_us, rate }),
            _ => Err(format!("{CLIENT} printed {printed:?}").into()),
        }
    }

    /// How many requests each customer has to make, to be busy for as long as wanted.
    fn requests(&self, customers: u32, kind: &str, clients: u32, seconds: u32) -> Result<u32, Trouble> {
        let trial = self.client(0, customers, TRIAL, kind)?;
        let enough = trial.rate / f64::from(customers * clients) * f64::from(seconds) * 1.2;
        Ok((enough as u32).clamp(TRIAL, 10_000_000))
    }
}

/// Measures both, and writes pictures and a table.
///
/// # Errors
/// If something did not run, or cannot be written.
pub fn run(options: &Options) -> Result<(), Trouble> {
    let this = std::env::current_exe()?;
    let programs = Programs::at(this.parent().ok_or("no directory of executables")?);
    for name in [SERVER, CLIENT] {
        if !programs.path(name).is_file() {
            return Err(format!("{} is missing; run: just factory-bench", programs.path(name).display()).into());
        }
    }
    let mut writes = Vec::new();
    for servers in 1..=3 {
        let group = Group::start(&programs, servers)?;
        let orders = group.requests(WRITERS, "1", 1, options.seconds)?;
        let figures = group.client(0, WRITERS, orders, "1")?;
        println!("{servers} servers: {:.0} orders/s, mean {:.0} us", figures.rate, figures.mean_us);
        writes.push(figures);
    }
    let mut reads = Vec::new();
    for servers in 1..=2u16 {
        let group = Group::start(&programs, servers)?;
        group.client(0, READERS, ORDERS_BEFORE_READS, "1")?;
        let requests = group.requests(READERS, "2", u32::from(servers), options.seconds)?;
        let group = &group;
        let each = thread::scope(|scope| {
            let read = |server| group.client(server, READERS, requests, "2").map_err(|error| error.to_string());
            let clients: Vec<_> = (0..servers).map(|server| scope.spawn(move || read(server))).collect();
            let ended =
                clients.into_iter().map(|client| client.join().unwrap_or_else(|_| Err("a client panicked".to_owned())));
            ended.collect::<Result<Vec<_>, _>>()
        })?;
        let rate = each.iter().map(|figures| figures.rate).sum();
        let mean_us = each.iter().map(|figures| figures.mean_us).sum::<f64>() / each.len() as f64;
        println!("{servers} servers and clients: {rate:.0} reads/s, mean {mean_us:.0} us");
        reads.push(Figures { mean_us, rate });
    }
    write(options, &writes, &reads)
}

fn write(options: &Options, writes: &[Figures], reads: &[Figures]) -> Result<(), Trouble> {
    let servers = |figures: &[Figures]| (1..=figures.len()).map(|count| format!("{count} servers")).collect::<Vec<_>>();
    let picture = |title: &str, scale: &str, figures: &[Figures], value: fn(&Figures) -> f64| {
        let series = vec![(scale.to_owned(), figures.iter().map(|figures| Some(value(figures))).collect())];
        Bars { title: title.to_owned(), scale: scale.to_owned(), groups: servers(figures), series }
    };
    let rate = |figures: &Figures| figures.rate;
    fs::create_dir_all(&options.out)?;
    let pictures = [
        ("factory-writes", picture("Orders of 8 customers", "orders per second", writes, rate)),
        ("factory-writes-latency", picture("Orders of 8 customers", "mean latency, us", writes, |f| f.mean_us)),
        ("factory-reads", picture("Reads of 128 customers at each server", "reads per second, all", reads, rate)),
    ];
    let mut page = format!(
        "# Robot factories\n\n`just factory-bench {}`, {} cores.\n\n\
         | what | servers | per second | mean latency, us |\n|---|---|---|---|\n",
        options.seconds,
        thread::available_parallelism().map_or(0, usize::from)
    );
    for (what, figures) in [("orders, 8 customers", writes), ("reads, 128 customers at each", reads)] {
        for (place, figures) in figures.iter().enumerate() {
            let (rate, mean) = (number(figures.rate), number(figures.mean_us));
            page.push_str(&format!("| {what} | {} | {rate} | {mean} |\n", place + 1));
        }
    }
    for (name, picture) in pictures {
        for (form, file) in picture.files()? {
            fs::write(options.out.join(format!("{name}.{form}")), file)?;
        }
        if CAN_DRAW {
            page.push_str(&format!("\n![]({name}.svg)\n"));
        }
    }
    let path = options.out.join("factory.md");
    fs::write(&path, page)?;
    println!("{}", path.display());
    Ok(())
}
