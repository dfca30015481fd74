//! CloudTrail's log files, as S3 delivers them: `{"Records":[...]}`, plain or gzip; also what
//! `aws cloudtrail lookup-events` prints, `{"Events":[{"CloudTrailEvent":"..."}]}`.
//!
//! Read as a stream, one event at a time: whatever the file's size, memory holds one event's few fields. Every
//! other service's events stand in the same files with fields of the same names and other types, so a field of
//! an unexpected type is no field, never an error.
#![deny(clippy::disallowed_methods)]

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::MultiGzDecoder;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use sha2::{Digest as _, Sha256};

use crate::request::Fingerprint;

use super::event::Safe;
use super::moment::Moment;

/// The longest string within a file. CloudTrail's largest event has 256 KiB (its user guide, "quotas").
pub const MAX_STRING: usize = 1024 * 1024;

/// A key that somebody pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// When.
    pub time: Moment,
    /// The request, as the signed record and so the helper's line name it.
    pub request_id: Option<Safe>,
    /// CloudTrail's own name of the event.
    pub event_id: Option<Safe>,
    /// Who: `userIdentity.arn`.
    pub principal: Option<Safe>,
    /// For which instance.
    pub instance: Option<Safe>,
    /// For which OS user.
    pub user: Option<Safe>,
    /// The key's fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// Where the request came from: an address, or an AWS service's name.
    pub source: Option<Safe>,
    /// By which program.
    pub agent: Option<Safe>,
}

/// What a file held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Events of any kind.
    pub events: u64,
    /// The earliest and the latest of them.
    pub span: Option<(Moment, Moment)>,
}

/// Reads one file, and calls `take` for each push in it, as they come.
///
/// A push that the service refused (`errorCode`) put no key anywhere and is none.
///
/// # Errors
/// The stream's own, or what is wrong with the JSON and where. What was read before it was taken.
pub fn read(file: impl BufRead, mut take: impl FnMut(Push)) -> Result<Tally, io::Error> {
    let mut tally = Tally::default();
    let mut file = file;
    let gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    if gzip {
        read_json(MultiGzDecoder::new(file), &mut tally, &mut take)?;
    } else {
        read_json(file, &mut tally, &mut take)?;
    }
    Ok(tally)
}

fn read_json(json: impl Read, tally: &mut Tally, take: &mut dyn FnMut(Push)) -> Result<(), io::Error> {
    let json = BufReader::new(StringLimit::new(json));
    let mut deserializer = serde_json::Deserializer::from_reader(json);
    File(&mut |event| tally.count(event, take)).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(())
}

impl Tally {
    fn count(&mut self, event: Event, take: &mut dyn FnMut(Push)) {
        self.events = self.events.saturating_add(1);
        let Some(time) = event.event_time.0.as_deref().and_then(Moment::from_rfc3339) else {
            return;
        };
        self.cover(time, time);
        if let Some(push) = push(time, event) {
            take(push);
        }
    }

    fn cover(&mut self, earliest: Moment, latest: Moment) {
        let (first, last) = self.span.unwrap_or((earliest, latest));
        self.span = Some((first.min(earliest), last.max(latest)));
    }

    /// Adds what another file held.
    pub fn add(&mut self, other: Self) {
        self.events = self.events.saturating_add(other.events);
        if let Some((earliest, latest)) = other.span {
            self.cover(earliest, latest);
        }
    }
}

fn push(time: Moment, event: Event) -> Option<Push> {
    let is = |text: &Text, wanted: &str| text.0.as_deref() == Some(wanted);
    let pushed = is(&event.event_source, "ec2-instance-connect.amazonaws.com")
        && is(&event.event_name, "SendSSHPublicKey")
        && event.error_code.0.is_none();
    if !pushed {
        return None;
    }
    let safe = |text: Text| text.0.map(|text| Safe::new(&text));
    let parameters = event.request_parameters.0.unwrap_or_default();
    let key = parameters.ssh_key.0.and_then(|key| key.public_key.0);
    Some(Push {
        time,
        request_id: safe(event.request_id),
        event_id: safe(event.event_id),
        principal: event.user_identity.0.and_then(|identity| safe(identity.arn)),
        instance: safe(parameters.instance_id),
        user: safe(parameters.os_user),
        fingerprint: key.and_then(|key| fingerprint(&key)),
        source: safe(event.source_ip_address),
        agent: safe(event.user_agent),
    })
}

/// The fingerprint of an OpenSSH public key line: SHA-256 of the decoded blob.
fn fingerprint(key: &str) -> Option<Fingerprint> {
    let blob = STANDARD.decode(key.split_ascii_whitespace().nth(1)?).ok()?;
    Some(Fingerprint::Sha256(Sha256::digest(blob).into()))
}

/// The fields that matter, of any event of any service.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Event {
    event_time: Text,
    event_source: Text,
    event_name: Text,
    error_code: Text,
    #[serde(rename = "requestID")]
    request_id: Text,
    #[serde(rename = "eventID")]
    event_id: Text,
    #[serde(rename = "sourceIPAddress")]
    source_ip_address: Text,
    user_agent: Text,
    user_identity: Object<Identity>,
    request_parameters: Object<Parameters>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Identity {
    arn: Text,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Parameters {
    instance_id: Text,
    os_user: Text,
    #[serde(rename = "SSHKey", alias = "sSHKey")]
    ssh_key: Object<PublicKey>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PublicKey {
    public_key: Text,
}

/// A string; nothing where something else stands.
#[derive(Default)]
struct Text(Option<String>);

/// An object; nothing where something else stands.
struct Object<T>(Option<T>);

impl<T> Default for Object<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(Lax::<NoObject>(PhantomData))
            .map(|seen| match seen {
                Seen::Text(text) => Self(Some(text)),
                Seen::Object(_) | Seen::Other => Self(None),
            })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(Lax::<T>(PhantomData))
            .map(|seen| match seen {
                Seen::Object(object) => Self(Some(object)),
                Seen::Text(_) | Seen::Other => Self(None),
            })
    }
}

/// An object of which nothing is wanted.
struct NoObject;

impl<'de> Deserialize<'de> for NoObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|IgnoredAny| Self)
    }
}

/// Whatever stands in a field.
enum Seen<T> {
    Text(String),
    Object(T),
    Other,
}

struct Lax<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Lax<T> {
    type Value = Seen<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Seen::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Seen::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        IgnoredAny::deserialize(SeqAccessDeserializer::new(seq)).map(|IgnoredAny| Seen::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Seen::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Seen::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Seen::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Seen::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Seen::Other)
    }
}

/// The whole file: hands each event on and keeps none.
struct File<'f>(&'f mut dyn FnMut(Event));

impl<'de> DeserializeSeed<'de> for File<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for File<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with Records, as CloudTrail delivers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // A digest file has no Records: it is CloudTrail's as well, and says nothing here.
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "Records" => map.next_value_seed(Records(self.0))?,
                "Events" => map.next_value_seed(LookedUp(self.0))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// `"Records":[EVENT...]`
struct Records<'f>(&'f mut dyn FnMut(Event));

/// `"Events":[{"CloudTrailEvent":"EVENT"}...]`
struct LookedUp<'f>(&'f mut dyn FnMut(Event));

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LookedUpEvent {
    cloud_trail_event: Text,
}

macro_rules! stream_of {
    ($seed:ident, $element:ty, $each:expr) => {
        impl<'de> DeserializeSeed<'de> for $seed<'_> {
            type Value = ();

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
                deserializer.deserialize_seq(self)
            }
        }

        impl<'de> Visitor<'de> for $seed<'_> {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
                while let Some(Object(element)) = seq.next_element::<Object<$element>>()? {
                    #[allow(
                        clippy::redundant_closure_call,
                        reason = "the macro's way to take a function"
                    )]
                    if let Some(event) = element.and_then($each) {
                        (self.0)(event);
                    }
                }
                Ok(())
            }
        }
    };
}

stream_of!(Records, Event, Some);
stream_of!(LookedUp, LookedUpEvent, |event: LookedUpEvent| {
    serde_json::from_str(event.cloud_trail_event.0.as_deref()?).ok()
});

/// A reader that fails where a JSON string grows longer than [`MAX_STRING`]: the one thing in JSON that a
/// streaming parser must hold whole.
struct StringLimit<R> {
    inner: R,
    within: Option<usize>,
    escaped: bool,
}

impl<R> StringLimit<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            within: None,
            escaped: false,
        }
    }

    /// Follows one byte; false where the string is too long.
    fn follow(&mut self, byte: u8) -> bool {
        match &mut self.within {
            None => {
                if byte == b'"' {
                    self.within = Some(0);
                }
            }
            Some(_) if self.escaped => self.escaped = false,
            Some(_) if byte == b'"' => self.within = None,
            Some(length) => {
                self.escaped = byte == b'\\';
                *length = length.saturating_add(1);
                return *length <= MAX_STRING;
            }
        }
        true
    }
}

impl<R: Read> Read for StringLimit<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if buffer.iter().take(read).all(|&byte| self.follow(byte)) {
            Ok(read)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a string of more than {MAX_STRING} bytes"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const EVENT: &str = r#"{
        "eventVersion": "1.08",
        "userIdentity": {"type": "IAMUser", "principalId": "AIDAEXAMPLE", "arn": "arn:aws:iam::123456789012:user/alice"},
        "eventTime": "2025-01-30T10:39:08Z", "eventSource": "ec2-instance-connect.amazonaws.com",
        "eventName": "SendSSHPublicKey", "awsRegion": "us-east-1", "sourceIPAddress": "198.51.100.7",
        "userAgent": "aws-cli/2.23 \u001b[2J",
        "requestParameters": {"instanceId": "i-0123456789abcdef0", "osUser": "ec2-user",
            "SSHKey": {"publicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f c"}},
        "responseElements": null, "requestID": "5e8e1f1c-0000-4000-8000-000000000001",
        "eventID": "e1", "eventType": "AwsApiCall", "recipientAccountId": "123456789012"}"#;

    fn pushes(json: &[u8]) -> (Vec<Push>, Result<Tally, String>) {
        let mut seen = Vec::new();
        let tally = read(json, |push| seen.push(push)).map_err(|error| error.to_string());
        (seen, tally)
    }

    fn records(events: &[&str]) -> String {
        format!(r#"{{"Records":[{}]}}"#, events.join(","))
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(plain).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn a_push_is_read_plain_and_gzip_and_looked_up() {
        let plain = records(&[EVENT]);
        let looked_up =
            serde_json::json!({"Events": [{"EventId": "e1", "CloudTrailEvent": EVENT}], "NextToken": "x"});
        for file in [
            plain.clone().into_bytes(),
            gzip(plain.as_bytes()),
            looked_up.to_string().into_bytes(),
        ] {
            let (seen, tally) = pushes(&file);
            assert_eq!(tally.unwrap().events, 1);
            let [push] = seen.as_slice() else {
                panic!("{seen:?}")
            };
            assert_eq!(push.time.to_string(), "2025-01-30T10:39:08Z");
            assert_eq!(
                push.request_id.as_ref().unwrap().as_str(),
                "5e8e1f1c-0000-4000-8000-000000000001"
            );
            assert_eq!(push.user.as_ref().unwrap().as_str(), "ec2-user");
            assert_eq!(push.agent.as_ref().unwrap().as_str(), r"aws-cli/2.23 \x1b[2J");
            // ssh-keygen -lf of that key
            assert_eq!(
                push.fingerprint.unwrap().to_string(),
                "SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA"
            );
        }
    }

    #[test]
    fn a_refused_call_and_other_services_are_no_pushes() {
        let denied = EVENT.replace(
            r#""eventVersion""#,
            r#""errorCode": "AccessDenied", "eventVersion""#,
        );
        let serial = EVENT.replace("SendSSHPublicKey", "SendSerialConsoleSSHPublicKey");
        let other = EVENT.replace("ec2-instance-connect.amazonaws.com", "ec2.amazonaws.com");
        let (seen, tally) = pushes(records(&[&denied, &serial, &other]).as_bytes());
        assert_eq!((seen, tally.unwrap().events), (vec![], 3));
    }

    #[test]
    fn fields_of_other_types_hurt_nobody() {
        let odd = r#"{"eventTime": 5, "requestParameters": [1, {"a": null}], "userIdentity": "x", "requestID": {"a": [true]}, "errorCode": 1.5, "eventName": false, "eventID": -1}"#;
        let (seen, tally) = pushes(records(&[odd, "null", "[]", "7", r#""x""#, EVENT]).as_bytes());
        assert_eq!(seen.len(), 1);
        assert_eq!(tally.unwrap().events, 2);
    }

    #[test]
    fn what_came_before_the_damage_counts_and_the_damage_is_told() {
        let cut = records(&[EVENT, EVENT]);
        let (seen, tally) = pushes(&cut.as_bytes()[..cut.len() - 10]);
        assert_eq!(seen.len(), 1);
        assert!(tally.unwrap_err().contains("EOF"));
        let zipped = gzip(cut.as_bytes());
        assert!(pushes(&zipped[..zipped.len() - 9]).1.is_err());
        for wrong in ["", "[]", "7", r#"{"Records":7}"#, r#"{"Records":[]} x"#] {
            assert!(pushes(wrong.as_bytes()).1.is_err(), "{wrong}");
        }
        assert_eq!(pushes(br#"{"digestS3Object":"x"}"#).1.unwrap(), Tally::default());
    }

    #[test]
    fn an_endless_string_is_refused_before_it_is_held() {
        let head: &[u8] = br#"{"Records":[{"eventName":""#;
        let endless = BufReader::new(head.chain(io::repeat(b'x')));
        let error = read(endless, |_| ()).unwrap_err();
        assert!(error.to_string().contains("a string of more than"), "{error}");
    }

    #[test]
    fn quotes_within_strings_do_not_end_them() {
        let mut limit = StringLimit::new(io::empty());
        for byte in br#"{"a\"b\\":1}"# {
            assert!(limit.follow(*byte));
        }
        assert_eq!((limit.within, limit.escaped), (None, false));
    }
}
