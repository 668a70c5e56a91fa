//! Connections through a tunnel, with an agent that is played here.

use std::time::Duration;

use dwell_proto::v1;
use dwell_proto::v1::connect_input::Input;
use dwell_proto::v1::connect_output::Output;
use dwell_proto::v1::tunnel_up::Message as Up;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::fixture::{Agent, Fixture, SOON};
use crate::tunnel_end::{AgentEnd, asked, with_instance};

fn request(instance: &str, port: u32) -> v1::ConnectInput {
    let request = v1::ConnectRequest { instance: instance.to_owned(), port };
    v1::ConnectInput { input: Some(Input::Request(request)) }
}

fn input(input: Input) -> v1::ConnectInput {
    v1::ConnectInput { input: Some(input) }
}

fn output(output: Output) -> Up {
    Up::Connect(v1::ConnectOutput { output: Some(output) })
}

async fn input_of(end: &mut AgentEnd) -> Option<Input> {
    end.input().await.map(|message| message.connect.unwrap().input.unwrap())
}

async fn output_of(outputs: &mut Streaming<v1::ConnectOutput>) -> Option<Output> {
    let message = tokio::time::timeout(SOON, outputs.message()).await.unwrap();
    message.unwrap().map(|message| message.output.unwrap())
}

/// A connection that was accepted.
struct Connection {
    input: mpsc::Sender<v1::ConnectInput>,
    outputs: Streaming<v1::ConnectOutput>,
    end: AgentEnd,
}

async fn connect(fixture: &Fixture, agent: &mut Agent) -> Connection {
    let (input, messages) = mpsc::channel(4);
    input.send(request("web-0", 80)).await.unwrap();
    let mut fleet = fixture.fleet().await;
    let call = tokio::spawn(async move { fleet.connect(ReceiverStream::new(messages)).await });
    let open = asked(agent).await;
    assert!(matches!(open.purpose, Some(v1::open_tunnel::Purpose::Connect(_))));
    let end = AgentEnd::carry(agent, &open.tunnel).await.unwrap();
    end.send(output(Output::Connected(true))).await;
    let mut outputs = call.await.unwrap().unwrap().into_inner();
    assert_eq!(output_of(&mut outputs).await, Some(Output::Connected(true)));
    Connection { input, outputs, end }
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (fixture, mut agent) = with_instance().await;
    let Connection { input: sender, mut outputs, mut end } = connect(&fixture, &mut agent).await;
    sender.send(input(Input::Data(vec![1; 100_000].into()))).await.unwrap();
    drop(sender);
    let mut received = 0;
    while received < 100_000 {
        match input_of(&mut end).await {
            Some(Input::Data(piece)) if piece.len() <= 32 * 1024 => received += piece.len(),
            other => panic!("{other:?}"),
        }
    }
    // The end of the client's stream is told, and the other direction goes on.
    assert_eq!(input_of(&mut end).await, Some(Input::Closed(true)));
    end.send(output(Output::Data("late".into()))).await;
    assert_eq!(output_of(&mut outputs).await, Some(Output::Data("late".into())));
    end.send(output(Output::Closed(true))).await;
    let finishing = tokio::spawn(end.finish());
    assert_eq!(output_of(&mut outputs).await, Some(Output::Closed(true)));
    assert_eq!(output_of(&mut outputs).await, None);
    finishing.await.unwrap();

    let Connection { input: sender, mut outputs, mut end } = connect(&fixture, &mut agent).await;
    end.send(output(Output::Closed(true))).await;
    assert_eq!(output_of(&mut outputs).await, Some(Output::Closed(true)));
    sender.send(input(Input::Data("late".into()))).await.unwrap();
    assert_eq!(input_of(&mut end).await, Some(Input::Data("late".into())));
    sender.send(input(Input::Closed(true))).await.unwrap();
    assert_eq!(input_of(&mut end).await, Some(Input::Closed(true)));
}

#[tokio::test]
async fn when_one_side_goes_so_does_the_other() {
    let (fixture, mut agent) = with_instance().await;
    let Connection { input: sender, outputs, mut end } = connect(&fixture, &mut agent).await;
    drop((sender, outputs));
    while end.input().await.is_some() {}

    // An agent that goes in the middle is an error, not an end.
    let Connection { input: _sender, mut outputs, end } = connect(&fixture, &mut agent).await;
    drop(end);
    let status = tokio::time::timeout(SOON, outputs.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_its_instance_and_no_other() {
    let (fixture, mut agent) = with_instance().await;
    let stalled = connect(&fixture, &mut agent).await;
    let block: tonic::codegen::Bytes = vec![7; 32 * 1024].into();
    let mut sent = 0_usize;
    let limit = Duration::from_millis(500);
    while let Ok(()) =
        tokio::time::timeout(limit, stalled.end.send(output(Output::Data(block.clone())))).await
    {
        sent += block.len();
        assert!(sent < 16 << 20, "{sent} bytes are buffered somewhere");
    }
    // Over the same connection of the agent.
    let Connection { input: _sender, mut outputs, end } = connect(&fixture, &mut agent).await;
    let total = 8 << 20;
    let sending = tokio::spawn(async move {
        for _ in 0..total / block.len() {
            end.send(output(Output::Data(block.clone()))).await;
        }
        end
    });
    let mut received = 0;
    while received < total {
        match output_of(&mut outputs).await {
            Some(Output::Data(data)) => received += data.len(),
            other => panic!("{other:?}"),
        }
    }
    sending.await.unwrap();
    drop(stalled);
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_said() {
    let (fixture, mut agent) = with_instance().await;
    let mut fleet = fixture.fleet().await;
    for (first, code) in [
        (request("web-9", 80), Code::NotFound),
        (request("web", 80), Code::InvalidArgument),
        (request("web-0", 0), Code::InvalidArgument),
        (request("web-0", 65_536), Code::InvalidArgument),
        (input(Input::Data("x".into())), Code::InvalidArgument),
    ] {
        let status = fleet.connect(tokio_stream::iter([first])).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
    let (sender, messages) = mpsc::channel(1);
    sender.send(request("web-0", 81)).await.unwrap();
    let call = tokio::spawn(async move { fleet.connect(ReceiverStream::new(messages)).await });
    let open = asked(&mut agent).await;
    let end = AgentEnd::carry(&mut agent, &open.tunnel).await.unwrap();
    let message = "nothing listens on port 81 of web-0".to_owned();
    let code = Code::FailedPrecondition;
    end.send(Up::Error(v1::TunnelError { code: code.into(), message })).await;
    let status = call.await.unwrap().unwrap().into_inner().message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, "nothing listens on port 81 of web-0"));
}
