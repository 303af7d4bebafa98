//! What the clients ask for: a few hot keys, all five operations, values that are unique in the run.

use std::str::FromStr;

use bytes::Bytes;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use madkv_testkit::history::Action;

/// How often each operation is chosen, relative to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// PUT.
    pub put: u32,
    /// SWAP.
    pub swap: u32,
    /// GET.
    pub get: u32,
    /// DELETE.
    pub delete: u32,
    /// SCAN.
    pub scan: u32,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights { put: 25, swap: 25, get: 30, delete: 12, scan: 8 }
    }
}

impl FromStr for Weights {
    type Err = String;

    /// `put=25,swap=25,get=30,delete=12,scan=8`; what is not named has weight 0.
    fn from_str(text: &str) -> Result<Weights, String> {
        let mut weights = Weights { put: 0, swap: 0, get: 0, delete: 0, scan: 0 };
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').ok_or_else(|| format!("{part:?} is not <operation>=<weight>"))?;
            let weight = weight.parse().map_err(|_| format!("{weight:?} is no weight"))?;
            match name {
                "put" => weights.put = weight,
                "swap" => weights.swap = weight,
                "get" => weights.get = weight,
                "delete" => weights.delete = weight,
                "scan" => weights.scan = weight,
                _ => return Err(format!("{name:?} is none of put, swap, get, delete, scan")),
            }
        }
        weights.index().map_or_else(|_| Err("all weights are 0".to_owned()), |_| Ok(weights))
    }
}

impl Weights {
    fn index(self) -> Result<WeightedIndex<u32>, rand::distr::weighted::Error> {
        WeightedIndex::new([self.put, self.swap, self.get, self.delete, self.scan])
    }
}

/// What a run's clients ask for.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Decides it all.
    pub(crate) seed: u64,
    /// What all keys begin with.
    pub(crate) prefix: String,
    /// What all values begin with: something fresh if the keys may hold values of an earlier run, else nothing.
    pub(crate) values: String,
    /// How many keys.
    pub(crate) keys: usize,
    /// 0: all keys alike; 1: the second key half as often as the first, the third a third as often, and so on.
    pub(crate) skew: f64,
    /// How often which operation.
    pub(crate) weights: Weights,
    /// Values are padded to this size.
    pub(crate) value_bytes: usize,
}

impl Plan {
    /// Key number `number`. Sorted as their numbers.
    pub(crate) fn key(&self, number: usize) -> Bytes {
        let digits = self.keys.saturating_sub(1).to_string().len();
        Bytes::from(format!("{}k{number:0digits$}", self.prefix))
    }

    /// A range that holds all keys, and only keys of this run.
    pub(crate) fn all(&self) -> Action {
        Action::Scan { from: Bytes::from(format!("{}k", self.prefix)), to: Bytes::from(format!("{}k~", self.prefix)) }
    }
}

/// One client's requests.
#[derive(Debug)]
pub(crate) struct Workload {
    plan: Plan,
    client: u32,
    rng: ChaCha8Rng,
    operation: WeightedIndex<u32>,
    key: WeightedIndex<f64>,
    written: u64,
}

impl Workload {
    /// The requests of client number `client`; `Err` if the plan makes no sense.
    pub(crate) fn new(plan: &Plan, client: u32) -> Result<Workload, String> {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        rng.set_stream(client.into());
        let weights = (1..=plan.keys).map(|rank| (rank as f64).powf(-plan.skew));
        Ok(Workload {
            plan: plan.clone(),
            client,
            rng,
            operation: plan.weights.index().map_err(|error| format!("weights: {error}"))?,
            key: WeightedIndex::new(weights).map_err(|error| format!("keys: {error}"))?,
            written: 0,
        })
    }

    /// The next request.
    pub(crate) fn next(&mut self) -> Action {
        let key = self.key.sample(&mut self.rng);
        match self.operation.sample(&mut self.rng) {
            0 => Action::Put { key: self.plan.key(key), value: self.value() },
            1 => Action::Swap { key: self.plan.key(key), value: self.value() },
            2 => Action::Get { key: self.plan.key(key) },
            3 => Action::Delete { key: self.plan.key(key) },
            _ if self.rng.random_bool(0.5) => self.plan.all(),
            _ => {
                let other = self.key.sample(&mut self.rng);
                Action::Scan { from: self.plan.key(key.min(other)), to: self.plan.key(key.max(other)) }
            }
        }
    }

    /// True once in a while: this often in a thousand calls.
    pub(crate) fn chance(&mut self, permille: u32) -> bool {
        permille > 0 && self.rng.random_range(0..1000) < permille
    }

    fn value(&mut self) -> Bytes {
        self.written += 1;
        let mut value = format!("{}c{}-{}", self.plan.values, self.client, self.written);
        if value.len() < self.plan.value_bytes {
            value.push('.');
            value.extend(std::iter::repeat_n('x', self.plan.value_bytes - value.len()));
        }
        Bytes::from(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plan() -> Plan {
        Plan {
            seed: 1,
            prefix: "r-".to_owned(),
            values: String::new(),
            keys: 12,
            skew: 1.0,
            weights: Weights::default(),
            value_bytes: 20,
        }
    }

    fn actions(client: u32) -> Vec<Action> {
        let mut workload = Workload::new(&plan(), client).unwrap();
        (0..2_000).map(|_| workload.next()).collect()
    }

    #[test]
    fn next_same_seed_same_requests_other_client_others() {
        assert_eq!(actions(0), actions(0));
        assert_ne!(actions(0), actions(1));
    }

    #[test]
    fn next_all_operations_values_unique_and_first_keys_hotter() {
        let verbs: BTreeSet<&str> = actions(0).iter().map(Action::verb).collect();
        assert_eq!(verbs.len(), 5);
        let mut values = BTreeSet::new();
        let mut counts = [0; 2];
        for action in [actions(0), actions(1)].concat() {
            match action {
                Action::Put { key, value } | Action::Swap { key, value } => {
                    assert_eq!(value.len(), 20);
                    assert!(values.insert(value));
                    counts[0] += u32::from(key == "r-k00");
                    counts[1] += u32::from(key == "r-k11");
                }
                Action::Scan { from, to } => assert!(from <= to && from >= "r-k" && to <= "r-k~"),
                Action::Get { key } | Action::Delete { key } => {
                    assert!(("r-k00"..="r-k11").contains(&std::str::from_utf8(&key).unwrap()))
                }
            }
        }
        assert!(counts[0] > 5 * counts[1], "{counts:?}");
    }

    #[test]
    fn weights_from_text_and_their_errors() {
        let weights: Weights = "put=1,scan=2".parse().unwrap();
        assert_eq!(weights, Weights { put: 1, swap: 0, get: 0, delete: 0, scan: 2 });
        for (text, part) in
            [("put", "not <operation>"), ("jump=1", "none of"), ("put=x", "no weight"), ("put=0", "are 0")]
        {
            assert!(text.parse::<Weights>().unwrap_err().contains(part), "{text}");
        }
    }
}
