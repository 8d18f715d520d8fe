"""``report/index.html``: one file that shows what came out, with what certainty, and what the model gets wrong.

``content`` says what stands on the page (pure), ``words`` says it in sentences, ``charts`` draws, ``page`` renders. May
import what ``output`` may.
"""
