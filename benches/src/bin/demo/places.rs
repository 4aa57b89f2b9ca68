//! How far each replica of a store is, from the store's `/status`.

use flotilla_benches::status;
use serde_json::Value;
use std::collections::BTreeMap;

/// How far one replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Highest committed index that it knows of.
    pub commit: u64,
    /// Highest applied index.
    pub applied: u64,
}

/// Every replica of the store at `address`, by group; `None` when it does not answer.
pub async fn of_store(address: &str) -> Option<BTreeMap<u64, Place>> {
    let mut places = BTreeMap::new();
    collect(&status::read(address).await?, &mut places);
    Some(places)
}

/// Finds the objects that describe a replica, wherever they stand.
fn collect(value: &Value, places: &mut BTreeMap<u64, Place>) {
    match value {
        Value::Object(map) => {
            let number = |name: &str| map.get(name).and_then(Value::as_u64);
            if let (Some(group), Some(commit), Some(applied)) =
                (number("group"), number("commit"), number("applied"))
            {
                places.insert(group, Place { commit, applied });
            }
            map.values().for_each(|value| collect(value, places));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, places)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_found_wherever_they_stand() {
        let json = r#"{"store":1,"replicas":[{"group":3,"commit":9,"applied":8},{"group":4}]}"#;
        let mut places = BTreeMap::new();
        collect(&serde_json::from_str(json).unwrap(), &mut places);
        assert_eq!(places, BTreeMap::from([(3, Place { commit: 9, applied: 8 })]));
    }
}
