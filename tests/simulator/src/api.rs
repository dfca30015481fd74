//! The AWS API: EC2 Instance Connect as AWS JSON 1.1, and as much of EC2's and STS's query APIs as the clients
//! that push keys ask for. Beside it, below `/_simulator/`, the control interface.

use crate::faults::Effect;
use crate::http::{Answer, Asked};
use crate::principals::Principal;
use crate::record::Record;
use crate::service;
use crate::simulator::Handle;
use crate::state::{lock, uuid};
use crate::trail::Event;
use crate::world::Instance;
use serde_json::{Value, json};

const TARGET: &str = "AWSEC2InstanceConnectService.";
const UNKNOWN_KEY_ID: &str = "The security token included in the request is invalid.";
const NO_CREDENTIALS: &str = "Missing Authentication Token";

/// Answers one request to the API's address.
pub(crate) fn answer(handle: &Handle, asked: Asked) -> Answer {
    if let Some(verb) = asked.path.strip_prefix("/_simulator/") {
        return crate::control::answer(handle, verb, &asked);
    }
    let call = Call {
        handle,
        id: uuid(),
        asked: &asked,
    };
    match asked.header("x-amz-target") {
        Some(target) => {
            let action = target.strip_prefix(TARGET).unwrap_or(target);
            call.strike(action, Call::json_error, || call.json(action))
        }
        None => {
            let fields: Vec<(String, String)> = form_urlencoded::parse(&asked.body).into_owned().collect();
            let action = field(&fields, "Action").unwrap_or_default();
            call.strike(action, Call::ec2_error, || call.query(action, &fields))
        }
    }
}

/// One request and the id it got.
struct Call<'a> {
    handle: &'a Handle,
    id: String,
    asked: &'a Asked,
}

/// An exception's name and its message.
type Exception = (&'static str, String);

fn exception<T>(name: &'static str, message: impl Into<String>) -> Result<T, Exception> {
    Err((name, message.into()))
}

impl<'a> Call<'a> {
    /// Lets installed faults, which name the action as their path, have their way with the honest answer.
    fn strike(
        &self,
        action: &str,
        error: impl Fn(&Self, &str, &str) -> Answer,
        honest: impl FnOnce() -> Answer,
    ) -> Answer {
        let effects = lock(&self.handle.shared.api_faults).strike(&self.asked.method, action);
        let exception = effects.iter().find_map(|effect| match effect {
            Effect::Exception(name) => Some(name.clone()),
            _ => None,
        });
        let mut answer = match exception {
            Some(name) => error(self, &name, "Asked for by a fault."),
            None => honest(),
        };
        answer.effects = effects;
        answer
    }

    /// Access key id and region of the Authorization header (Signature Version 4). Nothing else of it is read.
    fn credential(&self) -> Option<(&'a str, &'a str)> {
        let header = self.asked.header("authorization")?;
        let scope = header.split("Credential=").nth(1)?.split(',').next()?;
        let mut parts = scope.trim().split('/');
        let id = parts.next()?;
        Some((id, parts.nth(1)?))
    }

    /// Who is calling, and the region they call.
    fn caller(&self) -> Result<(&'a Principal, &'a str), Exception> {
        let Some((id, region)) = self.credential() else {
            return exception("MissingAuthenticationTokenException", NO_CREDENTIALS);
        };
        match self.handle.shared.principals.find(id) {
            Some(principal) => Ok((principal, region)),
            None => exception("UnrecognizedClientException", UNKNOWN_KEY_ID),
        }
    }

    // --- EC2 Instance Connect ---

    fn json(&self, action: &str) -> Answer {
        let result = match action {
            "SendSSHPublicKey" => self.send_ssh_public_key(),
            "SendSerialConsoleSSHPublicKey" => exception(
                "SerialConsoleAccessDisabledException",
                "Your account is not authorized to use the EC2 Serial Console.",
            ),
            _ => exception("UnknownOperationException", format!("{action} is not simulated.")),
        };
        match result {
            Ok(body) => self.json_answer(200, &body),
            Err((name, message)) => self.json_error(name, &message),
        }
    }

    fn json_error(&self, name: &str, message: &str) -> Answer {
        // the one exception of the model that is a fault of the service
        let status = if name == "ServiceException" { 500 } else { 400 };
        self.json_answer(
            status,
            &json!({ "__type": name, "Message": message, "message": message }),
        )
    }

    fn json_answer(&self, status: u16, body: &Value) -> Answer {
        Answer::new(status, "application/x-amz-json-1.1", body.to_string())
            .header("x-amzn-RequestId", &self.id)
    }

    /// Every call by somebody known becomes an event, whatever comes of it.
    fn send_ssh_public_key(&self) -> Result<Value, Exception> {
        let (principal, region) = self.caller()?;
        let input: Value = serde_json::from_slice(&self.asked.body)
            .map_err(|e| ("SerializationException", format!("Not JSON: {e}")))?;
        let result = self.push(principal, region, &input);
        let event = Event {
            principal,
            region,
            input: &input,
            source: &self.asked.peer.ip().to_string(),
            agent: self.asked.header("user-agent").unwrap_or_default(),
            request_id: &self.id,
            refused: result
                .as_ref()
                .err()
                .map(|(name, message)| (*name, message.as_str())),
        };
        // A full disk must not fail the push: the events stay readable in memory.
        let _ = lock(&self.handle.shared.trail).append(&event);
        result
    }

    fn push(&self, principal: &Principal, region: &str, input: &Value) -> Result<Value, Exception> {
        let text = |name: &str| input.get(name).and_then(Value::as_str);
        let invalid = |name: &str| {
            (
                "InvalidArgsException",
                format!("The value of the parameter {name} is not valid."),
            )
        };

        let id = text("InstanceId")
            .filter(|v| service::instance_id(v))
            .ok_or_else(|| invalid("InstanceId"))?;
        let user = text("InstanceOSUser")
            .filter(|v| service::os_user(v))
            .ok_or_else(|| invalid("InstanceOSUser"))?;
        let pushed = text("SSHPublicKey").ok_or_else(|| invalid("SSHPublicKey"))?;
        let key = service::public_key(pushed).ok_or_else(|| invalid("SSHPublicKey"))?;
        let zone = text("AvailabilityZone");
        if input.get("AvailabilityZone").is_some() && !zone.is_some_and(service::zone) {
            return Err(invalid("AvailabilityZone"));
        }

        let instance = self
            .handle
            .shared
            .find(id)
            .map(|number| self.handle.numbered(number));
        let facts = instance.as_ref().map(Handle::facts);
        let visible = |i: &Instance| {
            i.region == region && i.account == principal.account() && zone.is_none_or(|z| z == i.zone)
        };
        let facts = facts.filter(visible);
        let resource = facts.as_ref().map_or_else(
            || format!("arn:aws:ec2:{region}:{}:instance/{id}", principal.account()),
            Instance::arn,
        );
        if !principal.may_push(user, id) {
            let why = format!(
                "User: {} is not authorized to perform: ec2-instance-connect:SendSSHPublicKey on resource: \
                 {resource} because no identity-based policy allows the \
                 ec2-instance-connect:SendSSHPublicKey action",
                principal.arn
            );
            return exception("AccessDeniedException", why);
        }
        let (Some(instance), Some(facts)) = (instance, facts) else {
            return exception(
                "EC2InstanceNotFoundException",
                "The specified instance was not found.",
            );
        };
        if facts.state != "running" {
            return exception(
                "EC2InstanceStateInvalidException",
                format!(
                    "The instance is {}, and keys go to running instances only.",
                    facts.state
                ),
            );
        }

        let record = Record::new(id, &key)
            .expires(instance.shared.key_lifetime)
            .caller(&principal.arn)
            .request(&self.id);
        instance.push_record(user, &record);
        Ok(json!({ "RequestId": self.id, "Success": true }))
    }

    // --- EC2 and STS ---

    fn query(&self, action: &str, fields: &[(String, String)]) -> Answer {
        let result = match action {
            "DescribeInstances" => self.describe_instances(fields),
            "DescribeInstanceConnectEndpoints" => self.ec2_caller().map(|_| {
                self.ec2_answer(
                    "DescribeInstanceConnectEndpoints",
                    "<instanceConnectEndpointSet/>",
                )
            }),
            "GetCallerIdentity" => return self.caller_identity(),
            _ => exception("InvalidAction", format!("The action {action} is not simulated.")),
        };
        result.unwrap_or_else(|(name, message)| self.ec2_error(name, &message))
    }

    /// As [`Call::caller`], with the exceptions that EC2 has for it.
    fn ec2_caller(&self) -> Result<(&'a Principal, &'a str), Exception> {
        self.caller().map_err(|_| {
            (
                "AuthFailure",
                "AWS was not able to validate the provided access credentials".to_owned(),
            )
        })
    }

    fn describe_instances(&self, fields: &[(String, String)]) -> Result<Answer, Exception> {
        let (principal, region) = self.ec2_caller()?;
        let all = self.handle.all().into_iter().map(|handle| handle.facts());
        let visible: Vec<Instance> = all
            .filter(|i| i.region == region && i.account == principal.account())
            .collect();
        let wanted: Vec<&str> = numbered(fields, "InstanceId.");
        if let Some(missing) = wanted.iter().find(|id| !visible.iter().any(|i| i.id == **id)) {
            return exception(
                "InvalidInstanceID.NotFound",
                format!("The instance ID '{missing}' does not exist"),
            );
        }
        let reservations: String = visible
            .iter()
            .filter(|i| wanted.is_empty() || wanted.contains(&i.id.as_str()))
            .map(reservation)
            .collect();
        Ok(self.ec2_answer(
            "DescribeInstances",
            &format!("<reservationSet>{reservations}</reservationSet>"),
        ))
    }

    fn ec2_answer(&self, action: &str, content: &str) -> Answer {
        Answer::new(
            200,
            "text/xml;charset=UTF-8",
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response \
                 xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>{}</requestId>{content}\
                 </{action}Response>",
                self.id
            ),
        )
    }

    fn ec2_error(&self, name: &str, message: &str) -> Answer {
        let status = if name == "AuthFailure" { 401 } else { 400 };
        Answer::new(
            status,
            "text/xml;charset=UTF-8",
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{}</Code>\
                 <Message>{}</Message></Error></Errors><RequestID>{}</RequestID></Response>",
                escape(name),
                escape(message),
                self.id
            ),
        )
    }

    fn caller_identity(&self) -> Answer {
        const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
        let (status, content) = match self.caller() {
            Ok((principal, _)) => (
                200,
                format!(
                    "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\"><GetCallerIdentityResult><Arn>{}</Arn>\
                     <UserId>{}</UserId><Account>{}</Account></GetCallerIdentityResult><ResponseMetadata>\
                     <RequestId>{}</RequestId></ResponseMetadata></GetCallerIdentityResponse>",
                    escape(&principal.arn),
                    escape(&principal.unique_id()),
                    principal.account(),
                    self.id
                ),
            ),
            Err((name, message)) => {
                let code = match name {
                    "UnrecognizedClientException" => "InvalidClientTokenId",
                    _ => "MissingAuthenticationToken",
                };
                let error = format!(
                    "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>{code}</Code>\
                     <Message>{}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
                    escape(&message),
                    self.id
                );
                (403, error)
            }
        };
        Answer::new(status, "text/xml", content)
    }
}

fn reservation(i: &Instance) -> String {
    const CODES: [(&str, u8); 5] = [
        ("pending", 0),
        ("running", 16),
        ("shutting-down", 32),
        ("terminated", 48),
        ("stopping", 64),
    ];
    let code = CODES
        .iter()
        .find(|(name, _)| *name == i.state)
        .map_or(80, |(_, code)| *code);
    let private_name = format!("ip-{}.ec2.internal", i.private_ip.to_string().replace('.', "-"));
    format!(
        "<item><reservationId>r-0123456789abcdef0</reservationId><ownerId>{account}</ownerId><groupSet/>\
         <instancesSet><item><instanceId>{id}</instanceId><imageId>ami-0123456789abcdef0</imageId>\
         <instanceState><code>{code}</code><name>{state}</name></instanceState>\
         <privateDnsName>{private_name}</privateDnsName><dnsName/><instanceType>t3.micro</instanceType>\
         <launchTime>2025-01-30T11:59:08.000Z</launchTime><placement><availabilityZone>{zone}\
         </availabilityZone><tenancy>default</tenancy></placement><monitoring><state>disabled</state>\
         </monitoring><subnetId>subnet-0123456789abcdef0</subnetId><vpcId>vpc-0123456789abcdef0</vpcId>\
         <privateIpAddress>{private_ip}</privateIpAddress><ipAddress>{public_ip}</ipAddress>\
         <architecture>x86_64</architecture><groupSet/><blockDeviceMapping/></item></instancesSet></item>",
        account = i.account,
        id = escape(&i.id),
        state = escape(&i.state),
        zone = escape(&i.zone),
        private_ip = i.private_ip,
        public_ip = i.public_ip,
    )
}

fn field<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    fields
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.as_str())
}

/// The values of `PREFIX1`, `PREFIX2`, …
fn numbered<'f>(fields: &'f [(String, String)], prefix: &str) -> Vec<&'f str> {
    let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    fields
        .iter()
        .filter(|(n, _)| n.strip_prefix(prefix).is_some_and(is_number))
        .map(|(_, v)| v.as_str())
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
