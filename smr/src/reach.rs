//! From `host:port` to a connection.
//!
//! A name may stand for several addresses, some of them dead, and for other ones tomorrow. What this module guarantees:
//! - A name is looked up again for each attempt, so whoever dials again finds a host that has moved (fault catalogue
//!   N11).
//! - All addresses of a name are tried within the deadline, however long it is: they race, each with a small lead over
//!   the next one (N12).
//! - An address that takes connections and is of no use otherwise (another program listens there, no one answers) does
//!   not go first the next time, unless it has proved itself: see [`greeted`] (N13).
//! - A lookup holds up no one but those who wait for it, and those not beyond a half of their deadline: it runs on a
//!   thread of its own, one for each name. When it fails, or takes too long, the addresses that it gave last are tried
//!   (N14).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// How long an address goes alone before the next one is tried as well, in milliseconds. Longer than a round trip.
const LEAD_MAX_MS: u64 = 100;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
/// Lookups at one time. Each has a thread, which a dead name server can hold for minutes.
const LOOKUPS_MAX: usize = 32;
/// Names of which something is remembered. A cluster has less than half as many.
const NAMES_MAX: usize = 1024;

/// Connects to `address` (`host:port`) and switches Nagle's delay off.
///
/// # Errors
/// Those of the operating system; [`io::ErrorKind::TimedOut`] after `deadline`.
pub async fn connect(address: &str, deadline: Duration) -> io::Result<TcpStream> {
    SYSTEM.connect(address, deadline).await
}

/// At `reached`, where [`connect`] led, is the one that was looked for. Among the addresses of `address` it goes first
/// the next time.
pub fn greeted(address: &str, reached: SocketAddr) {
    SYSTEM.trust(address, reached);
}

static SYSTEM: LazyLock<Names> = LazyLock::new(|| Names::new(ask_the_system));

fn ask_the_system(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// Asks for the addresses of a host.
type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// What is known of names.
struct Names {
    ask: Arc<Lookup>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    names: BTreeMap<String, Name>,
    /// By `host:port`, for names with several addresses.
    preferred: BTreeMap<String, Preferred>,
    lookups: usize,
}

#[derive(Default)]
struct Name {
    /// What the last lookup that succeeded gave.
    last: Vec<IpAddr>,
    /// Hears what comes of the lookup that is under way.
    under_way: Option<watch::Receiver<Option<Found>>>,
}

type Found = Result<Vec<IpAddr>, String>;

/// Which address goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preferred {
    /// The one that was greeted.
    This(SocketAddr),
    /// The one after the last one that a connection was made to: that one was not greeted yet.
    After(SocketAddr),
}

impl Names {
    fn new(ask: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Names {
        Names { ask: Arc::new(ask), known: Arc::default() }
    }

    async fn connect(&self, address: &str, deadline: Duration) -> io::Result<TcpStream> {
        let end = Instant::now() + deadline;
        let addresses = self.addresses(address, deadline / 2).await?;
        let stream = race(&addresses, end, dial).await?;
        if addresses.len() > 1
            && let Ok(reached) = stream.peer_addr()
        {
            lock(&self.known).prefer(address, Preferred::After(reached));
        }
        Ok(stream)
    }

    fn trust(&self, address: &str, reached: SocketAddr) {
        let mut known = lock(&self.known);
        if known.preferred.contains_key(address) {
            known.prefer(address, Preferred::This(reached));
        }
    }

    /// The addresses after `address`, in the order in which they are to be tried.
    async fn addresses(&self, address: &str, limit: Duration) -> io::Result<Vec<SocketAddr>> {
        if let Ok(literal) = address.parse() {
            return Ok(vec![literal]);
        }
        let malformed = || io::Error::new(io::ErrorKind::InvalidInput, format!("{address:?} is no host:port"));
        let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
        let port: u16 = port.parse().map_err(|_| malformed())?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for ip in self.lookup(host, limit).await? {
            let one = SocketAddr::new(ip, port);
            if !addresses.contains(&one) && addresses.len() < ADDRESSES_MAX {
                addresses.push(one);
            }
        }
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")));
        }
        if let Some(preferred) = lock(&self.known).preferred.get(address) {
            preferred.put_first(&mut addresses);
        }
        Ok(addresses)
    }

    async fn lookup(&self, host: &str, limit: Duration) -> io::Result<Vec<IpAddr>> {
        let (mut under_way, last) = self.start_lookup(host)?;
        let no_address = |why: &str| io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address: {why}"));
        let found = timeout(limit, under_way.wait_for(Option::is_some)).await;
        let failure = match found {
            Ok(Ok(found)) => match found.as_ref() {
                Some(Ok(addresses)) => return Ok(addresses.clone()),
                Some(Err(reason)) => no_address(reason),
                None => no_address("no answer"),
            },
            Ok(Err(_)) => no_address("too many names are looked up"),
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("{host}: no name server answers in time")),
        };
        // Better than nothing: whoever answers there has to prove who it is, as always.
        if last.is_empty() { Err(failure) } else { Ok(last) }
    }

    /// The lookup of `host` that is under way, begun now if there was none; and what the last one gave.
    fn start_lookup(&self, host: &str) -> io::Result<(watch::Receiver<Option<Found>>, Vec<IpAddr>)> {
        let mut known = lock(&self.known);
        if !known.names.contains_key(host) && known.names.len() >= NAMES_MAX {
            known.names.retain(|_, name| name.under_way.is_some());
        }
        let known = &mut *known;
        let name = known.names.entry(host.to_owned()).or_default();
        if let Some(under_way) = &name.under_way {
            return Ok((under_way.clone(), name.last.clone()));
        }
        let (sender, receiver) = watch::channel(None);
        if known.lookups < LOOKUPS_MAX {
            let (ask, all, host) = (Arc::clone(&self.ask), Arc::clone(&self.known), host.to_owned());
            let thread = std::thread::Builder::new().name("lookup".to_owned());
            thread.spawn(move || look_up(&*ask, &all, &host, &sender))?;
            known.lookups += 1;
            name.under_way = Some(receiver.clone());
        }
        Ok((receiver, name.last.clone()))
    }
}

fn look_up(ask: &Lookup, all: &Mutex<Known>, host: &str, listeners: &watch::Sender<Option<Found>>) {
    let found = ask(host).map_err(|error| error.to_string());
    let mut known = lock(all);
    known.lookups -= 1;
    if let Some(name) = known.names.get_mut(host) {
        name.under_way = None;
        if let Ok(addresses) = &found {
            name.last.clone_from(addresses);
        }
    }
    drop(known);
    listeners.send_replace(Some(found));
}

impl Known {
    fn prefer(&mut self, address: &str, preferred: Preferred) {
        if self.preferred.len() >= NAMES_MAX && !self.preferred.contains_key(address) {
            self.preferred.clear();
        }
        self.preferred.insert(address.to_owned(), preferred);
    }
}

impl Preferred {
    fn put_first(self, addresses: &mut [SocketAddr]) {
        let (Preferred::This(one) | Preferred::After(one)) = self;
        let Some(place) = addresses.iter().position(|address| *address == one) else { return };
        let first = if let Preferred::After(_) = self { place + 1 } else { place };
        addresses.rotate_left(first % addresses.len());
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Whoever dials a port of this host on which no one listens can be given that very port as its own, and is then
    // connected to itself (TCP's simultaneous open). It would also keep the rightful owner from listening there.
    if stream.local_addr()? == stream.peer_addr()? {
        stream.set_zero_linger()?;
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "no one listens there"));
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The lead of each of `count` addresses over the next one, so that a half of the time is left for the last one.
fn lead(left: Duration, count: usize) -> Duration {
    let share = left / (2 * u32::try_from(count).unwrap_or(u32::MAX).max(1));
    share.min(Duration::from_millis(LEAD_MAX_MS))
}

/// Dials the addresses one after the other, without waiting for the end of the previous attempts; the first success
/// counts.
async fn race<T, F>(addresses: &[SocketAddr], end: Instant, dial: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let late = || io::Error::new(io::ErrorKind::TimedOut, "timed out");
    if let [only] = addresses {
        return timeout_at(end, dial(*only)).await.map_err(|_| late())?;
    }
    let lead = lead(end.saturating_duration_since(Instant::now()), addresses.len());
    let mut waiting = addresses.iter();
    // Dropped at the end, and the other attempts with it.
    let mut attempts = JoinSet::new();
    let mut failure: Option<io::Error> = None;
    let mut next_at = Instant::now();
    loop {
        if next_at <= Instant::now()
            && let Some(address) = waiting.next()
        {
            let (address, attempt) = (*address, dial(*address));
            attempts.spawn(async move { (address, attempt.await) });
            next_at = Instant::now() + lead;
        }
        tokio::select! {
            biased;
            Some(ended) = attempts.join_next() => match ended {
                Ok((_, Ok(made))) => return Ok(made),
                Ok((address, Err(error))) => {
                    failure.get_or_insert(io::Error::new(error.kind(), format!("{address}: {error}")));
                    next_at = Instant::now();
                }
                Err(error) => failure = Some(io::Error::other(error)),
            },
            () = sleep_until(end) => return Err(failure.unwrap_or_else(late)),
            () = sleep_until(next_at), if waiting.len() > 0 => {}
        }
        if attempts.is_empty() && waiting.len() == 0 {
            return Err(failure.unwrap_or_else(late));
        }
    }
}

/// Nothing here is left half changed, so poison is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::mpsc;

    use tokio::net::TcpListener;

    use super::*;

    /// Longer than anything here takes; whoever waits this long has failed.
    const TIMEOUT: Duration = Duration::from_secs(20);

    fn at(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 9, last], port))
    }

    fn end() -> Instant {
        Instant::now() + TIMEOUT
    }

    /// Gives these answers, one after the other; the last one again and again.
    fn answers(answers: Vec<io::Result<Vec<IpAddr>>>) -> Names {
        let left = Mutex::new(VecDeque::from(answers));
        Names::new(move |_| {
            let mut left = lock(&left);
            if left.len() > 1 {
                return left.pop_front().unwrap();
            }
            let last = left.front().unwrap().as_ref();
            last.cloned().map_err(|error| io::Error::from(error.kind()))
        })
    }

    // covers N12
    #[tokio::test]
    async fn race_first_address_swallows_everything_second_is_reached() {
        let all = [at(1, 1), at(2, 1), at(3, 1)];
        let reached = race(&all, end(), |address| async move {
            if address == at(1, 1) {
                std::future::pending::<()>().await;
            }
            Ok(address)
        });
        assert_eq!(reached.await.unwrap(), at(2, 1));
    }

    // covers N12
    #[tokio::test]
    async fn race_refused_addresses_cost_no_lead_and_the_first_reason_is_given() {
        let began = Mutex::new(Vec::new());
        let all: Vec<SocketAddr> = (1..=16).map(|last| at(last, 1)).collect();
        let failed = race::<(), _>(&all, end(), |address| {
            lock(&began).push(address);
            async { Err(io::ErrorKind::ConnectionRefused.into()) }
        });
        let error = failed.await.unwrap_err();
        assert_eq!((error.kind(), lock(&began).len()), (io::ErrorKind::ConnectionRefused, 16));
        assert!(error.to_string().starts_with("127.0.9.1:1: "), "{error}");
    }

    // covers N12
    #[tokio::test]
    async fn race_no_one_answers_all_have_been_tried_by_the_deadline() {
        let began = Arc::new(Mutex::new(Vec::new()));
        let all: Vec<SocketAddr> = (1..=16).map(|last| at(last, 1)).collect();
        let failed = race::<(), _>(&all, Instant::now() + Duration::from_millis(300), |address| {
            lock(&began).push(address);
            std::future::pending()
        });
        assert_eq!(failed.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(!lock(&began).is_empty());
        // Whatever the machine does meanwhile: by plan the last one has a half of the time.
        for (left_ms, count) in [(100, 2), (2_000, 16), (1_000, 1), (0, 3)] {
            let left = Duration::from_millis(left_ms);
            assert!(lead(left, count) * count as u32 <= left / 2, "{left_ms} ms for {count}");
        }
        assert_eq!(lead(Duration::from_secs(60), 2), Duration::from_millis(LEAD_MAX_MS));
    }

    // covers N11
    #[tokio::test]
    async fn connect_name_is_looked_up_anew_each_time() {
        let listener = TcpListener::bind(at(2, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let names = answers(vec![Ok(vec![at(1, 0).ip()]), Ok(vec![at(2, 0).ip()])]);
        let address = format!("node.test:{port}");
        assert_eq!(names.connect(&address, TIMEOUT).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let stream = names.connect(&address, TIMEOUT).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), at(2, port));
    }

    // covers N14
    #[tokio::test]
    async fn addresses_lookup_that_fails_or_hangs_gives_the_last_ones() {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        let names = Names::new(move |_| {
            *lock(&count) += 1;
            let number = *lock(&count);
            match number {
                1 => Ok(vec![at(7, 0).ip()]),
                2 => Err(io::ErrorKind::NotFound.into()),
                _ => {
                    let _ = lock(&held).recv(); // a name server that does not answer
                    Ok(vec![at(8, 0).ip()])
                }
            }
        });
        assert_eq!(names.addresses("node.test:5", TIMEOUT).await.unwrap(), [at(7, 5)]);
        assert_eq!(names.addresses("node.test:5", TIMEOUT).await.unwrap(), [at(7, 5)], "it failed");
        let short = Duration::from_millis(1);
        for _ in 0..100 {
            assert_eq!(names.addresses("node.test:5", short).await.unwrap(), [at(7, 5)], "it hangs");
        }
        assert_eq!(*lock(&asked), 3, "those who ask meanwhile share the lookup that hangs");
        drop(release);
        let moved = async { while names.addresses("node.test:5", TIMEOUT).await.unwrap() != [at(8, 5)] {} };
        timeout(TIMEOUT, moved).await.unwrap();
    }

    // covers N14
    #[tokio::test]
    async fn lookup_of_many_names_that_hang_is_bounded_and_literals_need_none() {
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let names = Names::new(move |_| {
            let _ = lock(&held).recv();
            Err(io::ErrorKind::NotFound.into())
        });
        for number in 0..3 * LOOKUPS_MAX {
            let failed = names.addresses(&format!("node{number}.test:5"), Duration::from_millis(1)).await;
            assert!(failed.is_err());
            assert!(lock(&names.known).lookups <= LOOKUPS_MAX);
        }
        assert_eq!(names.addresses("127.0.9.1:5", Duration::ZERO).await.unwrap(), [at(1, 5)]);
        assert_eq!(names.addresses("[::1]:5", Duration::ZERO).await.unwrap(), ["[::1]:5".parse().unwrap()]);
        for malformed in ["node", "node:", "node:x", "node:65536"] {
            assert!(names.addresses(malformed, TIMEOUT).await.is_err(), "{malformed}");
        }
        drop(release);
    }

    // covers N13
    #[tokio::test]
    async fn connect_to_an_address_that_is_never_greeted_begins_with_the_next_one() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let names = answers(vec![Ok((1..=3).map(|last| at(last, 0).ip()).collect())]);
        let address = format!("node.test:{port}");
        let mut reached = Vec::new();
        for _ in 0..4 {
            reached.push(names.connect(&address, TIMEOUT).await.unwrap().peer_addr().unwrap());
        }
        assert_eq!(reached, [at(1, port), at(2, port), at(3, port), at(1, port)]);
        for _ in 0..3 {
            names.trust(&address, at(3, port));
            let stream = names.connect(&address, TIMEOUT).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), at(3, port), "it has proved itself");
        }
    }
}
