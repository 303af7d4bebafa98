//! `factory-client`: customers who order, read, or scan the records.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use smr_service::address::is_same;
use smr_service::args::{BadArgument, check_address};
use smr_service::process::{self, Fatal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::managed;
use crate::managed::customer::GaveUp;
use crate::managed::managers::Managers;
use crate::message::{
    CustomerAnswer, CustomerRequest, Indexes, KIND_CUSTOMER_ANSWER, KIND_CUSTOMER_REQUEST, ORDER, READ,
};
use crate::wire::{self, Connection};

/// The program's name.
pub const PROGRAM: &str = "factory-client";
/// The request type, of the command line alone, that prints the records.
const SCAN: i32 = 3;
/// Customers of one client.
const CUSTOMERS_MAX: i32 = 4096;
/// How long a server that is not there yet is waited for, in milliseconds.
const CONNECT_WAIT_MS: u64 = 5_000;
/// How long to wait before the next attempt, in milliseconds.
const CONNECT_PAUSE_MS: u64 = 50;
/// How often a linearizable read is sent on to another server.
const SENT_ON_MAX: usize = 16;
/// How long it waits before that, in milliseconds, so that who takes over can.
const SENT_ON_PAUSE_MS: u64 = 20;
/// Acknowledged orders that wait to be written to the file.
const NOTES_MAX: usize = 4096;

/// Customers who send requests to one factory.
#[derive(Clone, Debug, Parser)]
#[command(name = PROGRAM, version)]
pub struct Options {
    /// Where the factory is
    #[arg(value_name = "IP")]
    pub ip: String,
    /// Its port
    #[arg(value_name = "PORT", allow_negative_numbers = true)]
    pub port: u16,
    /// Number of customers
    #[arg(value_name = "CUSTOMERS", allow_negative_numbers = true)]
    pub customers: i32,
    /// Number of requests of each; for type 3 the last customer to look for
    #[arg(value_name = "ORDERS", allow_negative_numbers = true)]
    pub orders: i32,
    /// 1: order; 2: read the own record; 3: print all records
    #[arg(value_name = "REQUEST TYPE", allow_negative_numbers = true)]
    pub request_type: i32,
    /// The id of the first customer; the others follow
    #[arg(long = "first_customer", value_name = "ID", default_value_t = 0, allow_negative_numbers = true)]
    pub first_customer: i32,
    /// The number of each customer's first order
    #[arg(long = "first_order", value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    pub first_order: i32,
    /// Reads see every order that was acknowledged before: the production factory answers
    #[arg(long)]
    pub linearizable: bool,
    /// Write each acknowledged order to this file: customer, order, index
    #[arg(long, value_name = "FILE")]
    pub acknowledged: Option<PathBuf>,
    /// The managers that decide who produces: customers go on at another factory when theirs dies
    #[arg(long = "managers", value_name = "ADDRESSES")]
    pub managers: Option<String>,
    /// With --managers: the number of the factories' group in their layout; 0 by default
    #[arg(long = "partition_id", value_name = "N", allow_negative_numbers = true)]
    pub partition_id: Option<u16>,
}

impl Options {
    fn check(&self) -> Result<String, BadArgument> {
        let bad = |what: String| Err(BadArgument(what));
        if self.managers.is_none() && self.partition_id.is_some() {
            return bad("--partition_id is for factories with --managers".to_owned());
        }
        let address = format!("{}:{}", self.ip, self.port);
        check_address("the factory", &address)?;
        if !(1..=CUSTOMERS_MAX).contains(&self.customers) {
            return bad(format!("{} customers; 1 to {CUSTOMERS_MAX} are possible", self.customers));
        }
        if self.orders < 0 || self.first_customer < 0 || self.first_order < 0 {
            return bad("numbers of orders and ids of customers are not negative".to_owned());
        }
        if self.first_customer.checked_add(self.customers).is_none()
            || self.first_order.checked_add(self.orders).is_none()
        {
            return bad("a customer's id or an order's number does not fit into 31 bits".to_owned());
        }
        if ![ORDER, READ, SCAN].contains(&self.request_type) {
            return bad(format!("request type {}; 1 is an order, 2 a read, 3 prints all records", self.request_type));
        }
        Ok(address)
    }
}

/// An acknowledged order.
struct Acknowledged {
    customer: i32,
    order: i32,
    index: u64,
}

/// Latencies of requests that were answered.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    count: u64,
    sum: Duration,
    min: Option<Duration>,
    max: Duration,
}

impl Times {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.sum += took;
        self.min = Some(self.min.map_or(took, |min| min.min(took)));
        self.max = self.max.max(took);
    }

    fn merge(&mut self, other: &Times) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.into_iter().chain(other.min).min();
        self.max = self.max.max(other.max);
    }

    /// Mean, shortest and longest latency in microseconds, and requests per second.
    fn line(&self, whole: Duration) -> String {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let mean = if self.count == 0 { 0.0 } else { micros(self.sum) / self.count as f64 };
        let rate = if whole.is_zero() { 0.0 } else { self.count as f64 / whole.as_secs_f64() };
        format!("{mean:.1}\t{:.1}\t{:.1}\t{rate:.1}", micros(self.min.unwrap_or_default()), micros(self.max))
    }
}

/// Why a customer stops before it is through.
enum Stopped {
    /// The server is gone: a normal end.
    ServerGone,
    /// The server says why.
    Told(String),
}

/// What all customers of the program share.
struct Shared {
    options: Options,
    address: String,
    /// With managers: all factories, and which one is named.
    managed: Option<(Arc<[String]>, usize)>,
    stop: AtomicBool,
    notes: Option<mpsc::Sender<Acknowledged>>,
}

/// Whom a customer asks.
enum Way {
    /// The factory that is named.
    One(Connection),
    /// That one first, and others if it dies.
    Any(managed::customer::Customer),
}

struct Customer {
    shared: Arc<Shared>,
    way: Way,
    times: Times,
}

async fn connect(address: &str) -> io::Result<Connection> {
    let deadline = Instant::now() + Duration::from_millis(CONNECT_WAIT_MS);
    loop {
        match wire::connect_as_customer(address).await {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(CONNECT_PAUSE_MS)).await;
            }
            ended => return ended,
        }
    }
}

impl Customer {
    async fn ask(&mut self, request: CustomerRequest) -> Result<CustomerAnswer, Stopped> {
        let connection = match &mut self.way {
            Way::One(connection) => connection,
            Way::Any(customer) => return customer.ask(request).await.map_err(gave_up),
        };
        let mut sent_on = 0;
        loop {
            connection.send(KIND_CUSTOMER_REQUEST, &request).await.map_err(|_| Stopped::ServerGone)?;
            let answer = connection.receive(KIND_CUSTOMER_ANSWER).await;
            match answer.ok().flatten().ok_or(Stopped::ServerGone)? {
                // Reads only: an order goes to the factory that the command line names.
                CustomerAnswer::NotDone { ask: Some(address), .. } if is_read(&request) && sent_on < SENT_ON_MAX => {
                    sent_on += 1;
                    tokio::time::sleep(Duration::from_millis(SENT_ON_PAUSE_MS)).await;
                    *connection = wire::connect_as_customer(&address).await.map_err(|_| Stopped::ServerGone)?;
                }
                answer => return Ok(answer),
            }
        }
    }

    async fn order(&mut self, customer: i32, order: i32) -> Result<(), Stopped> {
        let index = match &mut self.way {
            Way::One(_) => self.order_at_one(customer, order).await?,
            Way::Any(way) => way.order(customer, order).await.map_err(gave_up)?,
        };
        if let Some(notes) = &self.shared.notes {
            // The writer ends after the customers.
            let _ = notes.send(Acknowledged { customer, order, index }).await;
        }
        Ok(())
    }

    async fn order_at_one(&mut self, customer: i32, order: i32) -> Result<u64, Stopped> {
        let request = CustomerRequest::Request {
            customer_id: customer,
            order_number: order,
            request_type: ORDER,
            linearizable: false,
        };
        match self.ask(request).await? {
            CustomerAnswer::Robot { customer_id, order_number, index, .. }
                if (customer_id, order_number) == (customer, order) =>
            {
                Ok(index)
            }
            other => Err(told(other)),
        }
    }

    async fn read(&mut self, customer: i32) -> Result<Option<i32>, Stopped> {
        let linearizable = self.shared.options.linearizable;
        let request =
            CustomerRequest::Request { customer_id: customer, order_number: -1, request_type: READ, linearizable };
        match self.ask(request).await? {
            CustomerAnswer::Record { customer_id: -1, .. } => Ok(None),
            CustomerAnswer::Record { customer_id, last_order } if customer_id == customer => Ok(Some(last_order)),
            other => Err(told(other)),
        }
    }

    async fn run(&mut self, customer: i32) -> Result<(), Stopped> {
        let Options { orders, first_order, request_type, .. } = self.shared.options;
        for number in first_order..first_order + orders {
            if self.shared.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let began = Instant::now();
            if request_type == ORDER {
                self.order(customer, number).await?;
            } else {
                self.read(customer).await?;
            }
            self.times.add(began.elapsed());
        }
        Ok(())
    }

    /// The records of customers 0 to `orders`, as lines; as far as the server lived to give them.
    async fn scan(&mut self, output: &mut String) -> Result<(), Stopped> {
        for customer in 0..=self.shared.options.orders {
            if let Some(last_order) = self.read(customer).await? {
                output.push_str(&format!("{customer}\t{last_order}\n"));
            }
        }
        Ok(())
    }

    async fn indexes(&mut self) -> Result<Indexes, Stopped> {
        match self.ask(CustomerRequest::Indexes).await? {
            CustomerAnswer::Indexes(indexes) => Ok(indexes),
            other => Err(told(other)),
        }
    }
}

fn is_read(request: &CustomerRequest) -> bool {
    matches!(request, CustomerRequest::Request { request_type: READ, .. })
}

fn gave_up(why: GaveUp) -> Stopped {
    Stopped::Told(match why {
        GaveUp::NotDone(why) => format!("not done: {why}"),
        GaveUp::Unknown(why) => format!("the order may have been recorded: {why}"),
    })
}

fn told(answer: CustomerAnswer) -> Stopped {
    Stopped::Told(match answer {
        CustomerAnswer::NotDone { reason, .. } | CustomerAnswer::Unknown { reason } => reason,
        other => format!("an answer to another request: {other:?}"),
    })
}

/// How the customers ended, all together.
#[derive(Default)]
struct Summary {
    times: Times,
    text: String,
    server_gone: bool,
    told: Option<String>,
    unreachable: Option<String>,
}

/// Does what the command line says.
///
/// # Errors
/// Why it cannot.
pub fn run(options: &Options) -> Result<(), Fatal> {
    let address = options.check()?;
    let runtime = process::runtime()?;
    let began = Instant::now();
    let summary = runtime.block_on(all(options, address))?;
    if let Some(error) = summary.unreachable {
        return Err(Fatal::Failed(error));
    }
    let text = match options.request_type {
        SCAN => summary.text,
        _ => format!("{}\n", summary.times.line(began.elapsed())),
    };
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Fatal::Failed(format!("cannot print: {error}")))?;
    if let Some(reason) = summary.told {
        return Err(Fatal::Failed(format!("after {} requests: {reason}", summary.times.count)));
    }
    if summary.server_gone {
        process::say(
            PROGRAM,
            &format!("the server is gone after {} requests; the last ones may have been done", summary.times.count),
        );
    }
    Ok(())
}

async fn all(options: &Options, address: String) -> Result<Summary, Fatal> {
    let (notes, writer) = match &options.acknowledged {
        Some(path) => {
            let failed = |error: io::Error| Fatal::Failed(format!("{}: {error}", path.display()));
            let file = std::fs::File::create(path).map_err(failed)?;
            let (notes, received) = mpsc::channel(NOTES_MAX);
            (Some(notes), Some(tokio::task::spawn_blocking(move || write_notes(file, received))))
        }
        None => (None, None),
    };
    let managed = match &options.managers {
        Some(managers) => Some(factories(options, managers, &address).await?),
        None => None,
    };
    let shared = Arc::new(Shared { options: options.clone(), address, managed, stop: AtomicBool::new(false), notes });
    let mut customers = JoinSet::new();
    for number in 0..options.customers {
        customers.spawn(one(Arc::clone(&shared), number));
    }
    let mut summary = Summary::default();
    while let Some(ended) = customers.join_next().await {
        let (times, text, ended) = ended.map_err(|error| Fatal::Failed(format!("a customer: {error}")))?;
        summary.times.merge(&times);
        summary.text.push_str(&text);
        match ended {
            Ok(()) => continue,
            Err(End::Stopped(Stopped::ServerGone)) => summary.server_gone = true,
            Err(End::Stopped(Stopped::Told(reason))) => summary.told = Some(reason),
            Err(End::Unreachable(error)) => summary.unreachable = Some(error),
        }
        shared.stop.store(true, Ordering::Relaxed);
    }
    drop(shared);
    if let Some(writer) = writer {
        let written = writer.await.map_err(|error| Fatal::Failed(error.to_string()))?;
        written.map_err(|error| Fatal::Failed(format!("cannot write acknowledged orders: {error}")))?;
    }
    Ok(summary)
}

/// All factories that the managers have there, and which of them is named.
async fn factories(options: &Options, managers: &str, address: &str) -> Result<(Arc<[String]>, usize), Fatal> {
    let addresses = managed::server::managers_of(managers)?;
    let managers = Managers { addresses, cluster: None, partition: options.partition_id.unwrap_or(0) };
    let until = tokio::time::Instant::now() + Duration::from_millis(CONNECT_WAIT_MS);
    let layout = managers.layout(Some(until), |_| {}).await.map_err(Fatal::Failed)?;
    match layout.servers.iter().position(|factory| is_same(factory, address)) {
        Some(named) => Ok((layout.servers.into(), named)),
        None => {
            let (partition, there) = (managers.partition, layout.servers.join(", "));
            let what = format!("{address} is none of the factories that the managers have in s{partition}: {there}");
            Err(BadArgument(what).into())
        }
    }
}

/// How one customer ended early.
enum End {
    Stopped(Stopped),
    Unreachable(String),
}

async fn one(shared: Arc<Shared>, number: i32) -> (Times, String, Result<(), End>) {
    let way = match &shared.managed {
        Some((factories, named)) => Way::Any(managed::customer::Customer::new(Arc::clone(factories), *named)),
        None => match connect(&shared.address).await {
            Ok(connection) => Way::One(connection),
            Err(error) => {
                let what = format!("cannot reach the factory at {}: {error}", shared.address);
                return (Times::default(), String::new(), Err(End::Unreachable(what)));
            }
        },
    };
    let customer = shared.options.first_customer + number;
    let is_scan = shared.options.request_type == SCAN;
    let mut customer_thread = Customer { shared, way, times: Times::default() };
    let mut text = String::new();
    let ended = if is_scan {
        let ended = customer_thread.scan(&mut text).await;
        if ended.is_ok()
            && number == 0
            && let Ok(indexes) = customer_thread.indexes().await
        {
            let Indexes { last_index, committed_index, primary_id } = indexes;
            let line = format!("last_index {last_index}, committed_index {committed_index}, primary_id {primary_id}");
            process::say(PROGRAM, &line);
        }
        ended
    } else {
        customer_thread.run(customer).await
    };
    (customer_thread.times, text, ended.map_err(End::Stopped))
}

fn write_notes(file: std::fs::File, mut notes: mpsc::Receiver<Acknowledged>) -> io::Result<()> {
    let mut file = io::BufWriter::new(file);
    while let Some(Acknowledged { customer, order, index }) = notes.blocking_recv() {
        writeln!(file, "{customer}\t{order}\t{index}")?;
    }
    file.flush()
}
