"""Texts that somebody else wrote, to try what shows them."""

NASTY = "<script>alert(1)</script> ]]> & \x1b[31m \u202e \x00 \ud800 **bold** [x](javascript:y)"
EVIL = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "{{constructor.constructor('document.title=\"owned\"')()}} **bold** [link](javascript:alert(1)) \x1b[31m \u202e"
)
"""Runs script in a page that takes any of it for markup or for a template."""
