"""The page: its tabs, and where it is mounted (docs/app.md)."""

from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import themes

from picjax.app.session import Session
from picjax.app.tabs import complete, compose, labels, styles
from picjax.app.tabs.complete import CompleteTab
from picjax.app.tabs.compose import ComposeTab
from picjax.app.tabs.labels import LabelsTab
from picjax.app.uploads import Limits
from picjax.app.worker import Worker

CLEAN_EVERY, CLEAN_AGE = 600, 3600  # seconds, of temporary files


def build(worker: Worker, limits: Limits, folder: Path) -> gr.Blocks:
    """The page.

    Args:
      worker: serves the requests.
      limits: of uploads.
      folder: for ZIP files.
    """
    with gr.Blocks(
        title="picjax",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(CLEAN_EVERY, CLEAN_AGE),
    ) as blocks:
        gr.Markdown(
            "# picjax\nMany images of one input: paint, draw several, choose one, go on.",
            elem_id="head",
        )
        given = (worker, limits, folder)
        with gr.Tab("Complete", id="complete"):
            complete.build(CompleteTab(*given), make_state(Session()), blocks)
        with gr.Tab("Labels", id="labels"):
            drafts = make_state(labels.Draft()), make_state(styles.Lender())
            states = make_state(Session()), *drafts
            labels.build(LabelsTab(*given), *states, blocks)
        with gr.Tab("Compose", id="compose"):
            states = make_state(Session()), make_state(compose.Draft())
            compose.build(ComposeTab(*given), *states, blocks)
    blocks.queue(default_concurrency_limit=16, max_size=64, api_open=False)
    return blocks


def make_state(value: Any) -> gr.State:
    """What the server keeps of a browser's tab; each has a copy of its own."""
    return gr.State(value, time_to_live=CLEAN_AGE, delete_callback=close)


def close(value: Any) -> None:
    """End what a tab has begun."""
    if isinstance(value, Session):
        value.close()


def mount(app: FastAPI, blocks: gr.Blocks, limits: Limits) -> None:
    """Put the page at the root of a server."""
    font = ["system-ui", "sans-serif"]  # nothing is fetched from elsewhere
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=limits.bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=themes.Base(font=font, font_mono=["ui-monospace", "monospace"]),
        css_paths=Path(__file__).with_name("style.css"),
    )
