"""The service against its own OpenAPI document."""

import fnmatch

import hypothesis
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from running_service import TOKEN


@hypothesis.settings(
    max_examples=120, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(st.data())
def test_every_answer_is_as_documented(client, clips, document, data):
    """Whatever is asked of a path and method that the document holds: its status is there, and its
    body is valid.
    """
    path = data.draw(st.sampled_from(sorted(document["paths"])))
    method = data.draw(st.sampled_from(sorted(document["paths"][path])))
    described = document["paths"][path][method]
    number = data.draw(st.sampled_from([1, 2, 999_999, 10**30]))
    value = (
        st.text(max_size=400) | st.integers(-3, 1000).map(str) | st.sampled_from(["true", "a", ""])
    )
    names = [one["name"] for one in described.get("parameters", []) if one["in"] == "query"]
    query = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(names, value)))
    token = (
        data.draw(st.sampled_from(["", "wrong", TOKEN])) if number > 900 else "wrong"
    )  # nothing is to be removed
    headers = data.draw(
        st.fixed_dictionaries(
            {"Authorization": st.just(f"Bearer {token}".strip())},
            optional={
                "Range": st.sampled_from(
                    ["bytes=0-9", "bytes=99999999-", "bytes=9-1", "nonsense", "bytes=0-1,5-6"]
                ),
                "Host": st.sampled_from(["rebound.example", "localhost"]),
                "Content-Type": st.sampled_from(["audio/wav", "multipart/form-data; boundary=x"]),
            },
        )
    )
    clip = data.draw(st.sampled_from(["silence", "text", "short"]))  # nor added
    content = clips[clip].read_bytes() if method == "post" and data.draw(st.booleans()) else None
    reply = client.request(
        method, path.replace("{id}", str(number)), params=query, headers=headers, content=content
    )
    answers = described["responses"]
    assert str(reply.status_code) in answers, (method, path, query, headers, reply.text[:300])
    ((media, inside),) = answers[str(reply.status_code)].get("content", {"": {}}).items()
    kind = reply.headers.get("content-type", "").partition(";")[0]
    assert fnmatch.fnmatch(kind, media) or (reply.status_code, kind) == (
        206,
        "multipart/byteranges",
    )
    if "schema" in inside:
        Draft202012Validator(inside["schema"] | {"components": document["components"]}).validate(
            reply.json()
        )


def test_other_paths_and_methods(client, document):
    """They are refused as problems, too."""
    problem = Draft202012Validator(document["components"]["schemas"]["Problem"])
    refused = [
        client.request(method, "/v1/identify") for method in ("GET", "PUT", "DELETE", "PATCH")
    ]
    for reply, status in [
        *((reply, 405) for reply in refused),
        (client.get("/v2"), 404),
        (client.post("/v1/tracks/1"), 405),
    ]:
        assert (reply.status_code, reply.headers["content-type"]) == (
            status,
            "application/problem+json",
        )
        problem.validate(reply.json())
    form = document["paths"]["/v1/tracks"]["post"]["requestBody"]["content"]["multipart/form-data"][
        "schema"
    ]
    assert set(form["properties"]) == {"audio", "name", "title", "artist", "album"}
